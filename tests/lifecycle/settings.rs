//! What the builder sets.
use super::*;
use coracle::{Network, Sysctl, Ulimit};
use std::fs;

#[test]
fn words_environment_and_directory() {
    let image = host();
    let echo = |builder: coracle::ContainerBuilder| say(&builder);
    assert_eq!(echo(Container::builder(&image).command(["echo", "a"]).arg("b").args(["c"])), "a b c");
    let builder = Container::builder(&image).entrypoint(["echo", "entry"]);
    assert_eq!(echo(builder.clone()), "entry");
    assert_eq!(echo(builder.command(["word"])), "entry word");
    let env =
        sh(&image, "echo $A $B; echo $HOME; echo $PATH; pwd").env("A", "1").envs([("A", "2"), ("B", "3")]);
    let said = echo(env.working_dir("/made/here"));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3]), ("2 3", "/root", "/made/here"));
    assert!(lines[2].contains("/usr/bin"));
    let only = Container::builder(&image).command(["/usr/bin/env"]).env_clear().env("ONE", "1");
    let mut names: Vec<_> =
        echo(only).lines().map(|line| line.split('=').next().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["HOME", "HOSTNAME", "ONE", "PATH"]);
    let error = sh(&image, "true").env("A=B", "x").run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // It would be there under another name.
    let device = coracle::Device::new("/dev/null").at("/dev/my\0null");
    let error = sh(&image, "true").device(device).create().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

/// Whoever made an image may have written anything there.
#[test]
fn an_images_command_with_a_nul_byte_is_refused() {
    let mut image = Fixture::new(&["one"]);
    image.config = text(&image.config).replace("/bin/sh", "/bin/sh\\u0000x").into_bytes();
    let archive = docker_archive(&[(&image, &["app"])]);
    let image = Image::load_reader(&Store::temp().unwrap(), &archive[..]).unwrap().remove(0);
    assert_eq!(image.config().cmd(), ["/bin/sh\0x"]);
    let error = Container::builder(&image).run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn nothing_of_the_programs_environment_comes_in() {
    assert!(std::env::var_os("CARGO_PKG_NAME").is_some() || std::env::var_os("CORACLE_LANE").is_some());
    assert_eq!(say(&sh(&host(), "env | grep -E '^(CARGO|CORACLE|RUST)' || true")), "");
}

#[test]
fn names_of_the_host_and_of_itself() {
    let image = host();
    let container = sh(&image, "hostname; cat /etc/hostname; grep -c box /etc/hosts").hostname("box");
    assert_eq!(say(&container), "box\nbox\n1");
    let container = sh(&image, "hostname").start().unwrap();
    container.wait().unwrap();
    assert_eq!(text(&container.logs(Stream::Stdout).unwrap()), container.short_id());
    assert_eq!(
        sh(&image, "true").hostname("x".repeat(65)).run().unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let container = sh(&image, "true").label("k", "v").create().unwrap();
    assert_eq!(container.labels().into_iter().collect::<Vec<_>>(), [("k".into(), "v".into())]);
    assert!(container.inspect().unwrap().contains(container.id()));
    let address = "192.0.2.7".parse().unwrap();
    assert_eq!(
        say(&sh(&image, "grep peer /etc/hosts").host("peer", address)).split_whitespace().next(),
        Some("192.0.2.7")
    );
}

/// By the C library: its own list of sources, the host's files, and what a host itself calls by a name.
#[test]
fn names_are_resolved_on_the_hosts_network() {
    let image = host();
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let named = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?))
    });
    let on_host = |script: &str| sh(&image, script).network(Network::host());
    assert!(say(&on_host("getent ahostsv4 localhost")).starts_with("127.0.0.1"));
    for (address, name) in named.filter(|(address, _)| address.parse::<std::net::Ipv4Addr>().is_ok()) {
        let said = say(&on_host(&format!("getent ahostsv4 {name}")));
        assert!(said.lines().any(|line| line.split_whitespace().next() == Some(address)), "{name}: {said}");
    }
    let servers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(say(&on_host("cat /etc/resolv.conf")), servers.trim_end());
    assert_eq!(say(&sh(&image, "cat /etc/resolv.conf")), "", "of its own network nobody is asked");
}

/// A host whose names are known: one that no server of names has, and a server that is none.
#[test]
#[ignore = "needs root: gives itself other files of names"]
fn names_that_only_the_hosts_files_have() {
    let script = "cd \"$HOME\" && printf '127.0.0.1 localhost\\n192.0.2.77 peer.coracle.test peer\\n' >hosts && \
        printf 'nameserver 127.0.0.53\\noptions timeout:1 attempts:1\\n' >resolv && for name in hosts resolv; do \
        test -e $name; done && mount --bind hosts /etc/hosts && mount --bind resolv /etc/resolv.conf && exec \"$@\"";
    let under = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"];
    if !is_under("settings::names_that_only_the_hosts_files_have", &under) {
        return;
    }
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000").network(Network::host()));
    for name in ["peer.coracle.test", "peer"] {
        let script = format!("getent hosts {name}");
        let said =
            say(&sh(&image, &script).network(Network::host()).host("mate", "192.0.2.78".parse().unwrap()));
        assert_eq!(said.split_whitespace().next(), Some("192.0.2.77"), "{said}");
        let joined = container.exec(["sh", "-c", &script]).output().unwrap().stdout_text().into_owned();
        assert_eq!(joined.split_whitespace().next(), Some("192.0.2.77"), "{joined}");
        // The host's names are nobody's whose network is another.
        assert!(!sh(&image, &script).run().unwrap().status.success());
    }
    assert!(
        !sh(&image, "getent hosts no-such.coracle.test")
            .network(Network::host())
            .run()
            .unwrap()
            .status
            .success()
    );
    let said = say(&sh(&image, "getent hosts mate")
        .network(Network::host())
        .host("mate", "192.0.2.78".parse().unwrap()));
    assert_eq!(said.split_whitespace().next(), Some("192.0.2.78"), "{said}");
    let servers = "nameserver 127.0.0.53\noptions timeout:1 attempts:1";
    assert_eq!(say(&sh(&image, "cat /etc/resolv.conf").network(Network::host())), servers);
}

#[test]
fn users_and_groups() {
    // Whoever the machine itself has.
    let (passwd, group) =
        ("root:x:0:0::/root:/bin/sh\nmate:x:1:1::/usr/sbin:\nseven:x:7:7::/var:\n", "crew:x:4:\n");
    let image = host();
    let sh = |image: &Image, script: &str| {
        super::sh(image, script).file("/etc/passwd", passwd).file("/etc/group", group)
    };
    let id = "echo $(id -u) $(id -g) $(id -G) $HOME";
    assert_eq!(say(&sh(&image, "id -u; id -g")), "0\n0");
    let probe = sh(&image, "exec sleep 1000").start().unwrap();
    if is_single(&probe) {
        // One id only: another user is refused, with the reason.
        let error = sh(&image, id).user("1:1").run().unwrap_err();
        assert!(error.remedy().is_some(), "{error}");
        return;
    }
    let unknown = "999999999";
    for error in [
        sh(&image, id).user(unknown).run().unwrap_err(),
        sh(&image, id).user(format!("0:{unknown}")).run().unwrap_err(),
        sh(&image, id).group(unknown).run().unwrap_err(),
        probe.exec(["true"]).user(unknown).output().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(
            error.to_string().contains(unknown) && error.remedy().unwrap().contains("from 0 to "),
            "{error}"
        );
    }
    assert_eq!(say(&sh(&image, id).user("mate")), "1 1 1 /usr/sbin");
    assert_eq!(say(&sh(&image, id).user("7:8").group("9").group("crew")), "7 8 8 4 9 /var");
    assert_eq!(say(&sh(&image, "touch /tmp/x; stat -c %u:%g /tmp/x").user("55:66")), "55:66");
    let caps = "grep -E 'Cap(Prm|Eff|Inh|Amb)' /proc/self/status | cut -f2 | sort -u";
    assert_eq!(say(&sh(&image, caps).user("55:66")), "0000000000000000");
}

/// Also in layers that nobody has mounted yet, and in a container that runs.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn users_are_found_where_the_images_links_lead() {
    use common::{Node, tar};
    let (file, dir) = (|text: &'static str| Node::File(text.as_bytes()), || Node::Dir);
    let own = || {
        vec![
            ("etc/", dir()),
            ("etc/passwd", file("www:x:33:34::/srv:/\n")),
            ("etc/group", file("g:x:7:www\n")),
        ]
    };
    let linked = [
        ("etc/", dir()),
        ("etc/passwd", Node::Link("../share/accounts/passwd")),
        ("etc/group", Node::Link("/share/accounts/../group")),
        ("share/accounts/", dir()),
        ("share/accounts/passwd", file("www:x:33:34::/srv:/\n")),
        ("share/group", file("g:x:7:www\n")),
    ];
    let others = || [("etc/", dir()), ("etc/passwd", file("www:x:1:1::/:/\n")), ("etc/group", file(""))];
    let there = "33 34 34 7 /srv";
    // What is seen of them, and of user 33 where there are none.
    let images = [
        ("plain", vec![tar(own())], there),
        ("linked", vec![tar(linked)], there),
        (
            "a link to a file of a lower layer",
            vec![
                tar([("share/", dir()), ("share/passwd", file("www:x:33:34::/srv:/\n"))]),
                tar([("etc/group", file("g:x:7:www\n")), ("etc/passwd", Node::Link("/share/passwd"))]),
            ],
            there,
        ),
        ("over others", vec![tar(others()), tar(own())], there),
        ("beside something newer", vec![tar(own()), tar([("etc/newer", file(""))])], there),
        (
            "a directory that is a link",
            vec![
                tar([
                    ("usr/etc/", dir()),
                    ("usr/etc/passwd", file("www:x:33:34::/srv:/\n")),
                    ("usr/etc/group", file("g:x:7:www\n")),
                ]),
                tar([("etc", Node::Link("usr/etc"))]),
            ],
            there,
        ),
        (
            "directories in their place",
            vec![tar([("etc/", dir()), ("etc/passwd/", dir()), ("etc/group/", dir())])],
            "33 0 0 /",
        ),
        (
            "removed",
            vec![tar(own()), tar([("etc/.wh.passwd", file("")), ("etc/.wh.group", file(""))])],
            "33 0 0 /",
        ),
        (
            "an opaque directory",
            vec![tar(own()), tar([("etc/", dir()), ("etc/.wh..wh..opq", file(""))])],
            "33 0 0 /",
        ),
        ("a link that leads nowhere", vec![tar([("etc/passwd", Node::Link("/none"))])], "33 0 0 /"),
    ];
    let store = Store::temp().unwrap();
    let id = "echo $(busybox id -u) $(busybox id -g) $(busybox id -G) $HOME";
    for (what, mut layers, seen) in images {
        let base = storage::busybox(0o755, 0, 0);
        // The one with `etc` as a link has none below.
        layers.insert(0, base);
        let image = storage::image_of(&store, layers);
        let shell = |script: &str| Container::builder(&image).command(["/bin/busybox", "sh", "-c", script]);
        let probe = shell("busybox sleep 1000").start().unwrap();
        if is_single(&probe) {
            // Who it would be is known; that it can't be is told.
            assert!(shell(id).user("33").run().unwrap_err().remedy().is_some());
            continue;
        }
        assert_eq!(say(&shell(id).user("33")), seen, "{what}");
        let out = probe.exec(["/bin/busybox", "sh", "-c", id]).user("33").output().unwrap();
        assert_eq!(out.stdout_text().trim_end(), seen, "exec: {what}");
        let named = shell(id).user("www").run();
        match seen == there {
            true => assert_eq!(named.unwrap().stdout_text().trim_end(), there, "{what}"),
            false => assert_eq!(named.unwrap_err().kind(), ErrorKind::NotFound, "{what}"),
        }
    }
    // What a container has made of them counts at its next start.
    let image = storage::image_of(&store, vec![storage::busybox(0o755, 0, 0), tar(others())]);
    let words = [
        "/bin/busybox",
        "sh",
        "-c",
        "busybox id -u; busybox test -e /else || { echo ready; exec busybox sleep 1000; }",
    ];
    let container = Container::builder(&image).command(words).user("www");
    if is_single(&Container::builder(&image).command(words).start().unwrap()) {
        return assert!(container.start().unwrap_err().remedy().is_some());
    }
    let container = container.start().unwrap();
    // Who it is to be has been decided by then.
    container.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
    let change = "busybox mkdir /else; echo www:x:5:5::/: >/else/p; busybox ln -sf /else/p /etc/passwd";
    let changed = container.exec(["/bin/busybox", "sh", "-c", change]).user("0").output().unwrap();
    assert!(changed.status.success(), "{}", changed.stderr_text());
    container.kill(Signal::SIGKILL).unwrap();
    container.wait().unwrap();
    container.start().unwrap();
    container.wait().unwrap();
    assert_eq!(text(&container.logs(Stream::Stdout).unwrap()), "5");
}

#[test]
fn capabilities_and_the_filter() {
    let image = host();
    let effective = |builder: coracle::ContainerBuilder| u64::from_str_radix(&say(&builder), 16).unwrap();
    let cap = || sh(&image, "grep CapEff /proc/self/status | cut -f2");
    // capabilities(7): docker's fourteen.
    assert_eq!(effective(cap()), 0xa804_25fb);
    assert_eq!(effective(cap().cap_drop("ALL")), 0);
    assert_eq!(effective(cap().cap_drop("ALL").cap_add("CHOWN")), 1);
    assert_eq!(effective(cap().cap_add("SYS_ADMIN")), 0xa804_25fb | 1 << 21);
    assert_eq!(effective(cap().cap_drop("CAP_CHOWN")), 0xa804_25fb & !1);
    assert_eq!(cap().cap_add("NO_SUCH").run().unwrap_err().kind(), ErrorKind::InvalidInput);
    let field = |builder: &coracle::ContainerBuilder| say(builder);
    let status = sh(&image, "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | cut -f2");
    assert_eq!(field(&status), "1\n2");
    assert_eq!(field(&status.clone().no_new_privileges(false)), "0\n2");
    assert_eq!(field(&status.seccomp(coracle::Seccomp::Unconfined)), "1\n0");
}

#[test]
fn resource_limits_and_kernel_parameters() {
    let image = host();
    let limit = sh(&image, "ulimit -n; ulimit -c").ulimit(Ulimit::new("nofile", 77, 99).unwrap());
    assert_eq!(say(&limit.ulimit(Ulimit::new("core", 0, 0).unwrap())), "77\n0");
    let sysctl = sh(&image, "cat /proc/sys/net/ipv4/ip_default_ttl").sysctl("net.ipv4.ip_default_ttl", "99");
    assert_eq!(say(&sysctl), "99");
    assert_eq!(
        sh(&image, "true").sysctl("kernel.panic", "1").run().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert!(Sysctl::new("net/../x", "1").is_err());
}

/// Not a test when run by itself: what listens in a container, and pings itself.
#[test]
fn listens_and_pings() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let rights = status.lines().find(|line| line.starts_with("CapEff:")).unwrap();
    assert_eq!(rights.trim_end().rsplit('\t').next(), Some("0000000000000000"));
    let listens = std::net::TcpListener::bind("127.0.0.1:80").map(drop).map_err(|error| error.kind());
    let (family, kind, icmp) = (AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP));
    let pings = socket_with(family, kind, SocketFlags::CLOEXEC, icmp).map(drop).map_err(|errno| errno.kind());
    println!("listens {listens:?}, pings {pings:?}");
}

/// A server on port 80 in an image that has a user, as docker has it since 20.10.
#[test]
fn an_ordinary_user_listens_on_low_ports_and_pings() {
    let image = host();
    let (port, ping) = ("net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range");
    let files = [port, ping].map(|name| format!("/proc/sys/{}", name.replace('.', "/")));
    let of_host = || files.clone().map(|file| fs::read_to_string(file).unwrap());
    let before = of_host();
    let is_single = is_single(&ready(&sh(&image, "echo ready; exec sleep 1000")));
    let plain = Container::builder(&image)
        .bind(std::env::current_exe().unwrap(), "/program")
        .command(["/program", "--exact", "settings::listens_and_pings", "--nocapture"])
        .env(ROLE, "1")
        // Where there is one id, root without its capabilities.
        .user(if is_single { "0:0" } else { "1000:1000" })
        .cap_drop("ALL");
    let said = |builder: &coracle::ContainerBuilder| {
        let out = say(builder);
        out.lines().find(|line| line.starts_with("listens")).unwrap_or_else(|| panic!("{out}")).to_owned()
    };
    assert_eq!(said(&plain), "listens Ok(()), pings Ok(())");
    let other = plain.clone().sysctl(port, "1024");
    assert_eq!(said(&other), "listens Err(PermissionDenied), pings Ok(())", "the caller's own counts");
    if !is_single {
        let refused = "listens Ok(()), pings Err(PermissionDenied)";
        assert_eq!(said(&plain.sysctl(ping, "1 0")), refused);
    }

    let read = format!("cat {} | tr '\\t' ' '", files.join(" "));
    let range = if is_single { "0 0" } else { "0 65535" };
    assert_eq!(say(&sh(&image, &read)), format!("0\n{range}"));
    let write = format!("for f in {}; do echo 1 >$f; done 2>/dev/null; {read}", files.join(" "));
    assert_eq!(say(&sh(&image, &write).cap_add("ALL")), format!("0\n{range}"), "it is read-only as ever");
    // The host's stay what they are, and are no container's to set.
    let shared = say(&sh(&image, &format!("cat {}", files[0])).network(Network::host()));
    assert_eq!(shared, fs::read_to_string(&files[0]).unwrap().trim_end());
    assert_eq!(of_host(), before);
}

#[test]
fn a_setting_that_is_wrong_says_what_to_do() {
    let builder = sh(&host(), "true").sysctl("vm.swappiness", "1");
    let wrong = Sysctl::new("vm.swappiness", "1").unwrap_err();
    // A builder is used as often as one likes.
    for _ in 0..2 {
        let error = builder.create().unwrap_err();
        assert_eq!((error.kind(), error.step()), (ErrorKind::Unsupported, wrong.step()));
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("net.*")), "{error}");
        assert_eq!(error.to_string(), wrong.to_string());
    }
}

/// Of lists that no sane image has nothing is read beyond 4 MiB: an error, also in a container that runs.
#[test]
fn lists_of_users_are_read_up_to_a_size() {
    const MAX: usize = 4 << 20;
    let list = |line: &str, size: usize| format!("{}\n{line}\n", "#".repeat(size - line.len() - 2));
    let (mate, crew) = ("mate:x:0:0::/srv:/", "crew:x:0:");
    let store = Store::temp().unwrap();
    let image_of = |passwd: usize, group: usize| {
        let (passwd, group) = (list(mate, passwd), list(crew, group));
        assert!(passwd.ends_with("/\n") && group.ends_with(":\n"));
        let archive = common::tar([
            ("etc/passwd", common::Node::File(passwd.as_bytes())),
            ("etc/group", common::Node::File(group.as_bytes())),
        ]);
        storage::image_of(&store, vec![archive])
    };
    let run = |image: &Image, user: &str| Container::builder(image).command(["/none"]).user(user).run();
    // The last line of what is just not too large is read, and so this comes to its missing program.
    let error = run(&image_of(MAX, MAX), "mate:crew").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exec, "{error}");
    let assert_too_large = |error: coracle::Error, path: &str| {
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        assert!(error.path().unwrap().ends_with(path), "{error}");
        assert!(error.remedy().unwrap().contains("make it shorter"), "{error}");
    };
    assert_too_large(run(&image_of(MAX + 1, 100), "mate").unwrap_err(), "etc/passwd");
    assert_too_large(run(&image_of(100, MAX + 1), "mate:crew").unwrap_err(), "etc/group");
    // A container makes its own so long.
    let image = host();
    for file in ["passwd", "group"] {
        let script = format!("head -c 4194305 /dev/zero >/etc/{file} && echo ready; exec sleep 1000");
        // Its own, which also an ordinary user's container can write.
        let own =
            sh(&image, &script).file("/etc/passwd", "root:x:0:0::/:/\n").file("/etc/group", "root:x:0:\n");
        let container = ready(&own);
        let error = container.exec(["true"]).user("root:root").output().unwrap_err();
        assert_too_large(error, &format!("etc/{file}"));
    }
}
