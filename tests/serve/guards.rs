//! What holds more of a server than it should: memory, names that wait, another site's page.

use super::*;

/// A name that somebody has lead to this machine is no name of it (DNS rebinding).
#[test]
fn an_open_registry_answers_to_this_machines_names_alone() {
    let world = World::new();
    world.push("me/app", "1", &Fixture::new(&["one"]));
    let port = world.addr().port();
    let status = |world: &World, host: &str| {
        let request = format!("GET /v2/me/app/manifests/1 HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let mut connection = Connection::to(world.addr());
        connection.send(request);
        connection.answer(false).unwrap().status
    };
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.0.0.9:80",
        "[::1]",
        "10.0.2.2:5000",
        &format!("localhost:{port}"),
    ] {
        assert_eq!(status(&world, host), 200, "{host}");
    }
    for host in [
        "evil.example",
        &format!("evil.example:{port}"),
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "",
        "x@localhost",
    ] {
        assert_eq!(status(&world, host), 421, "{host}");
    }
    // Who says who may do what says who they are.
    let world = World::with(Registry::builder().anonymous(Access::Read));
    assert_eq!(status(&world, "registry.example"), 404);
    let world = World::with(Registry::builder().user("me", "w0rd", Access::Read));
    assert_eq!(status(&world, "registry.example"), 401);
}

/// One small blob in as many repositories as one likes.
#[test]
fn what_waits_is_counted_in_each_repository() {
    let world = World::with(Registry::builder().uploads_max(4));
    let digest = world.blob("me/one", b"blob");
    let mount = |repository: &str| {
        let path = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from=me/one");
        ask(world.addr(), "POST", &path, &[], b"")
    };
    for repository in ["me/two", "me/three", "me/four"] {
        mount(repository).expect(201);
        // Again it is the same.
        mount(repository).expect(201);
    }
    mount("me/five").fails(429, "TOOMANYREQUESTS");
    let path = format!("/v2/me/five/blobs/uploads/?digest={digest}");
    ask(world.addr(), "POST", &path, &[], b"blob").fails(429, "TOOMANYREQUESTS");
    world.head(&format!("/v2/me/four/blobs/{digest}")).expect(200);
    // What goes makes room.
    world.delete(&format!("/v2/me/two/blobs/{digest}")).expect(202);
    mount("me/five").expect(201);
    mount("me/six").fails(429, "TOOMANYREQUESTS");
}

/// Who pushes by digests alone, as for an index that never comes, takes nobody's room.
#[test]
fn what_is_in_the_index_waits_only_where_there_is_room() {
    let world = World::with(Registry::builder().uploads_max(6));
    let image = |n: usize| Fixture::new(&["shared", &n.to_string()]);
    for n in 0..8 {
        let manifest = world.blobs("me/app", &image(n));
        let digest = digest_of(&manifest).to_string();
        world.put("me/app", &digest, MANIFEST, &manifest).expect(201);
    }
    world.push("me/other", "1", &image(9));
    // None of them is lost for that.
    let manifests: Vec<_> = (0..8).map(|n| manifest_of(&image(n))).collect();
    let index = index_of(&manifests.iter().collect::<Vec<_>>());
    world.put("me/app", "1", INDEX, &index).expect(201);
    assert!(world.store.verify().unwrap().is_sound());
    // What no manifest has takes all there is.
    let full = (0..7).map(|n| {
        let content = format!("blob {n}");
        let path = format!("/v2/me/app/blobs/uploads/?digest={}", Digest::of(content.as_bytes()));
        ask(world.addr(), "POST", &path, &[], content.as_bytes()).status
    });
    assert_eq!(full.collect::<Vec<_>>(), [201, 201, 201, 201, 201, 201, 429]);
}

/// A page of them is held, and not all.
#[test]
fn referrers_are_listed_in_little_memory() {
    if !is_own_process("guards::referrers_are_listed_in_little_memory") {
        return;
    }
    const COUNT: usize = 24;
    const EACH: usize = 3 << 20;
    let world = World::new();
    let manifest = manifest_of(&Fixture::new(&["one"]));
    world.blob("me/app", b"{}");
    let long = "x".repeat(EACH);
    for n in 0..COUNT {
        world.blob("me/app", b"");
        let mut artifact = artifact("x/y", &manifest, "");
        artifact["annotations"]["says"] = format!("{n} {long}").into();
        world.put("me/app", &digest_of(&artifact).to_string(), MANIFEST, &artifact).expect(201);
    }
    // Of this process (proc_pid_clear_refs(5)): the peak begins anew.
    let status = |name: &str| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
    };
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let page = world.get(&format!("/v2/me/app/referrers/{}", digest_of(&manifest))).expect(200);
    assert_eq!(page.json()["manifests"].as_array().unwrap().len(), 1);
    assert!(page.header("link").is_some());
    let more = status("VmHWM:").saturating_sub(before);
    println!("{} KiB more", more >> 10);
    assert!(more < COUNT * EACH / 2, "{more} bytes more");
}
