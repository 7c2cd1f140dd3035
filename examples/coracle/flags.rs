//! The flags of `run` and `create`: docker's for every setting of the builder.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, pair, parse, switch, text};
use crate::fail::{Result, context, fail, usage};
use crate::format::bytes;
use crate::{limits, mounts, ports};
use coracle::{
    Container, ContainerBuilder, Device, Image, ImageConfig, Landlock, Network, Profile, Protection,
    Requirement, Seccomp, Store,
};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Of a container, and of each RUN of a build.
pub const SHARED: &[Flag] = &[
    flag("add-host", "HOST:IP", "A line for /etc/hosts"),
    flag("cpu-period", "USEC", "Period of --cpu-quota (default 100000)"),
    flag("cpu-quota", "USEC", "Processor time in each period"),
    flag("cpu-shares", "N", "Share of processor time against others (1024 is usual)").short('c'),
    flag("cpuset-cpus", "LIST", "Processors it may run on: 0-1,3"),
    flag("cpuset-mems", "LIST", "Memory nodes it may use"),
    flag("memory", "BYTES", "Memory limit (b, k, m, g)").short('m'),
    flag(
        "memory-swap",
        "BYTES",
        "Limit of memory and swap together (default: twice the memory); -1 for no limit of swap",
    ),
    flag("ulimit", "NAME=SOFT[:HARD]", "A resource limit of each process; -1 for none"),
];

pub const CONTAINER: &[Flag] = &[
    flag("blkio-weight", "N", "Share of disk time against others (100 is usual); 0 for none of its own"),
    flag("cap-add", "CAP", "Add a capability, or ALL"),
    flag("cap-drop", "CAP", "Drop a capability, or ALL"),
    flag("cidfile", "FILE", "Write the container's id to this file"),
    flag("cpus", "N", "Processors' worth of time: 0.5 is half of one"),
    flag("device", "SRC[:DST[:rwm]]", "A device of the host"),
    flag(
        "device-cgroup-rule",
        "RULE",
        "Devices that may be opened beside its own: \"c 1:3 rwm\"; all others are refused",
    ),
    flag("device-read-bps", "DISK:BYTES", "Bytes read from a disk in a second"),
    flag("device-read-iops", "DISK:N", "Reads from a disk in a second"),
    flag("device-write-bps", "DISK:BYTES", "Bytes written to a disk in a second"),
    flag("device-write-iops", "DISK:N", "Writes to a disk in a second"),
    flag("entrypoint", "COMMAND", "Replace the image's ENTRYPOINT"),
    flag("env", "NAME[=VALUE]", "Set an environment variable; without a value, the caller's").short('e'),
    switch("env-clear", "Leave the image's environment variables out"),
    flag("env-file", "FILE", "Set the environment variables of a file"),
    flag("expose", "PORT", "A port that --publish-all forwards to"),
    flag("file", "SRC:PATH[:MODE]", "Write a file (mode 644) with what the host's SRC has, at most 15 MiB"),
    flag("group-add", "GROUP", "A supplementary group"),
    flag("hostname", "NAME", "Host name in the container").short('h'),
    switch("init", "PID 1 is a small init that reaps and passes signals on"),
    switch("interactive", "Connect stdin").short('i'),
    flag("label", "KEY[=VALUE]", "Set a label").short('l'),
    flag("label-file", "FILE", "Set the labels of a file"),
    flag("memory-reservation", "BYTES", "Memory that is left to it when the machine runs short"),
    flag("mount", "SPEC", "type=bind|volume|tmpfs,source=…,target=…[,readonly]"),
    flag("name", "NAME", "The container's name"),
    flag("net", "NETWORK", "The same as --network"),
    flag("network", "NETWORK", "none (default: loopback only) or host"),
    flag("pids-limit", "N", "Limit of processes and threads; -1 for no limit"),
    flag("publish", "[IP:][HOST:]PORT", "Forward a port of the host to a TCP port of the container")
        .short('p'),
    switch("publish-all", "Forward free ports of the host to all that the image exposes").short('P'),
    switch("read-only", "The root filesystem can't be written"),
    flag("read-only-paths", "PATH[:PATH...]", "Replace the list of what in /proc and /sys can't be written"),
    switch("rm", "Remove the container when it has ended"),
    flag(
        "security-opt",
        "OPT",
        "profile=untrusted, seccomp=unconfined|strict|FILE, landlock[=BOOL], no-new-privileges[=BOOL], \
         systempaths=unconfined, mask=PATH[:PATH...], unmask=ALL|PATH[:PATH...], require=PROTECTION, best-effort=PROTECTION",
    ),
    flag("shm-size", "BYTES", "Size of /dev/shm"),
    flag("start-timeout", "SECONDS", "Give up a start that takes longer (default 60)"),
    flag("stop-signal", "SIGNAL", "What stop sends first"),
    flag("stop-timeout", "SECONDS", "How long stop waits before it kills"),
    flag("storage-opt", "size=BYTES", "Limit of what can be written to the root filesystem"),
    flag("sysctl", "NAME=VALUE", "A namespaced kernel parameter"),
    flag("timeout", "SECONDS", "Kill the container after this time"),
    flag("tmpfs", "PATH[:OPTIONS]", "Memory at PATH: size=64m,mode=1777,exec,ro"),
    switch("tty", "Give the command a terminal").short('t'),
    flag("user", "USER[:GROUP]", "Name or id").short('u'),
    flag("volume", "SRC:PATH[:ro]", "A volume or directory of the host at PATH").short('v'),
    flag("workdir", "PATH", "Working directory").short('w'),
    switch("writable-in-memory", "What is written to the root filesystem is in memory (with --rm)"),
];

/// This machine itself as an image.
pub const HOST: &str = "@host";

/// Opens an image.
pub fn image(store: &Store, name: &str) -> Result<Image> {
    if name == HOST { Ok(Image::host(store)?) } else { Ok(store.image(name)?) }
}

/// The builder that a command line asks for.
pub fn builder(store: &Store, args: &Args) -> Result<ContainerBuilder> {
    let (name, words) = args.operands.split_first().ok_or_else(|| usage("no image"))?;
    let image = match text("image", name)? {
        HOST => Image::host(store)?,
        name => crate::pull::wanted(store, args, name)?,
    };
    let profile = profile(args)?;
    let mut b = Container::builder(&image).profile(profile);
    if let Some(entrypoint) = args.raw("entrypoint") {
        let words = Some(entrypoint).filter(|word| !word.is_empty());
        b = b.entrypoint(words.map(OsStr::to_owned));
    }
    if !words.is_empty() {
        b = b.command(words.iter().cloned());
    }
    if args.has("env-clear") {
        b = b.env_clear();
    }
    b = environment(b, args)?;
    b = files(b, args)?;
    b = identity(b, args)?;
    b = security(b, args)?;
    b = b.limits(limits::all(profile.limits(), args)?);
    b = levels(b, args)?;
    b = network(b, image.config(), args)?;
    for mount in mounts::all(args)? {
        b = b.mount(mount);
    }
    Ok(b)
}

/// `NAME=VALUE`, or `NAME` for the caller's own; unset there, it is left out.
fn variable(word: &OsStr) -> Result<Option<(OsString, OsString)>> {
    match pair(word) {
        (name, _) if name.is_empty() => Err(usage(format!("invalid environment variable: {word:?}"))),
        (name, Some(value)) => Ok(Some((name.to_owned(), value.to_owned()))),
        (name, None) => Ok(std::env::var_os(name).map(|value| (name.to_owned(), value))),
    }
}

/// The lines of a file that are neither empty nor comments.
fn lines(path: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(context(path))?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_start);
    Ok(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

pub fn environment(mut b: ContainerBuilder, args: &Args) -> Result<ContainerBuilder> {
    b = b.envs(variables(args)?);
    Ok(b)
}

/// Of `--env-file`, then `--env`.
pub fn variables(args: &Args) -> Result<Vec<(OsString, OsString)>> {
    let mut all = Vec::new();
    for path in args.all("env-file")? {
        for line in lines(path)? {
            let name = line.split('=').next().unwrap_or_default();
            if name.contains(char::is_whitespace) {
                return Err(usage(format!("{path}: variable {name:?} contains whitespace")));
            }
            all.extend(variable(OsStr::new(&line))?);
        }
    }
    for word in args.all_raw("env") {
        all.extend(variable(word)?);
    }
    Ok(all)
}

/// `KEY=VALUE` or `KEY`.
pub fn labels(args: &Args) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for path in args.all("label-file")? {
        all.extend(lines(path)?);
    }
    all.extend(args.all("label")?.into_iter().map(str::to_owned));
    let split = |line: String| match line.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (line, String::new()),
    };
    Ok(all.into_iter().map(split).collect())
}

/// `SRC:PATH`, `SRC:PATH:MODE`.
fn files(mut b: ContainerBuilder, args: &Args) -> Result<ContainerBuilder> {
    for option in args.all("file")? {
        let wrong = || usage(format!("invalid --file {option:?}: SRC:PATH[:MODE], the mode in octal"));
        let mut parts = option.split(':');
        let (source, path, mode) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(source), Some(path), mode, None) => (source, path, mode.unwrap_or("644")),
            _ => return Err(wrong()),
        };
        let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(wrong)?;
        // A little more than a container takes says so, however much there is.
        let mut bytes = Vec::new();
        let file = fs::File::open(source).map_err(context(source))?;
        file.take(32 << 20).read_to_end(&mut bytes).map_err(context(source))?;
        b = b.file_mode(path, bytes, mode);
    }
    Ok(b)
}

/// Who and what it is, and how it behaves.
fn identity(mut b: ContainerBuilder, args: &Args) -> Result<ContainerBuilder> {
    if let Some(name) = args.get("name")? {
        b = b.name(name);
    }
    if let Some(name) = args.get("hostname")? {
        b = b.hostname(name);
    }
    if let Some(user) = args.get("user")? {
        b = b.user(user);
    }
    for group in args.all("group-add")? {
        b = b.group(group);
    }
    for (key, value) in labels(args)? {
        b = b.label(key, value);
    }
    if let Some(path) = args.raw("workdir") {
        b = b.working_dir(path);
    }
    if let Some(name) = args.get("stop-signal")? {
        b = b.stop_signal(name.parse()?);
    }
    if let Some(seconds) = args.number("stop-timeout")? {
        b = b.stop_timeout(Duration::from_secs(seconds));
    }
    if let Some(text) = args.get("start-timeout")? {
        b = b.start_timeout(seconds("start-timeout", text)?);
    }
    if let Some(text) = args.get("timeout")? {
        b = b.timeout(seconds("timeout", text)?);
    }
    if let Some(option) = args.get("storage-opt")? {
        let size = option.strip_prefix("size=");
        b = b.disk_max(bytes("storage-opt", size.ok_or_else(|| usage("--storage-opt: only size=BYTES"))?)?);
    }
    if args.raw("read-only").is_some() {
        // Also off, where a profile has it on.
        b = b.read_only(args.has("read-only"));
    }
    // A profile has none of these on.
    Ok(b.init(args.has("init")).tty(args.has("tty")).writable_in_memory(args.has("writable-in-memory")))
}

/// A time in seconds, fractions allowed.
pub fn seconds(name: &str, text: &str) -> Result<Duration> {
    Duration::try_from_secs_f64(parse(name, text)?)
        .map_err(|_| usage(format!("invalid argument {text:?} for --{name}")))
}

/// What the other flags are said after, wherever they stand.
fn profile(args: &Args) -> Result<Profile> {
    let options = args.all("security-opt")?;
    let named = options.into_iter().rev().find_map(|option| option.strip_prefix("profile="));
    named.map_or(Ok(Profile::default()), |name| Ok(name.parse()?))
}

fn levels(mut b: ContainerBuilder, args: &Args) -> Result<ContainerBuilder> {
    for option in args.all("security-opt")? {
        let (level, name) = match option.split_once('=') {
            Some(("require", name)) => (Requirement::Required, name),
            Some(("best-effort", name)) => (Requirement::BestEffort, name),
            _ => continue,
        };
        b = b.requirement(name.parse::<Protection>()?, level);
    }
    Ok(b)
}

fn security(mut b: ContainerBuilder, args: &Args) -> Result<ContainerBuilder> {
    for name in args.all("cap-add")? {
        b = b.cap_add(name);
    }
    for name in args.all("cap-drop")? {
        b = b.cap_drop(name);
    }
    for option in args.all("security-opt")? {
        // Docker takes both signs.
        let (key, value) = match option.split_once(['=', ':']) {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        b = match (key, value) {
            ("no-new-privileges", None | Some("true")) => b.no_new_privileges(true),
            ("no-new-privileges", Some("false")) => b.no_new_privileges(false),
            ("seccomp", Some("unconfined")) => b.seccomp(Seccomp::Unconfined),
            ("seccomp", Some("builtin" | "default")) => b.seccomp(Seccomp::Default),
            ("seccomp", Some("strict")) => b.seccomp(Seccomp::Strict),
            ("landlock", None | Some("true")) => b.landlock(Landlock::new()),
            ("landlock", Some("false")) => b.landlock(None),
            // Said first, and last.
            ("profile" | "require" | "best-effort", Some(_)) => b,
            // All of them together, below.
            ("mask" | "unmask", Some(_)) | ("systempaths", Some("unconfined")) => b,
            ("seccomp", Some(path)) => {
                let json = fs::read(path).map_err(context(format!("opening seccomp profile ({path})")))?;
                b.seccomp(Seccomp::from_json(json)?)
            }
            // There is no such confinement to be had, so this is what is.
            ("apparmor", Some("unconfined")) | ("label", Some("disable")) => b,
            _ => return Err(usage(format!("invalid --security-opt: {option:?}"))),
        };
    }
    b = covers(b, args)?;
    for limit in args.all("ulimit")? {
        b = b.ulimit(limit.parse()?);
    }
    for option in args.all("sysctl")? {
        let (name, value) =
            option.split_once('=').ok_or_else(|| usage(format!("--sysctl {option:?} is not NAME=VALUE")))?;
        b = b.sysctl(name, value);
    }
    for option in args.all("device")? {
        let mut parts = option.split(':');
        let source = parts.next().unwrap_or_default();
        let (target, access) = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => (source, "rwm"),
            (Some(access), None, _) if !access.starts_with('/') => (source, access),
            (Some(target), access, None) => (target, access.unwrap_or("rwm")),
            _ => return Err(usage(format!("invalid --device: {option:?}"))),
        };
        if access.is_empty() || !access.bytes().all(|b| b"rwm".contains(&b)) {
            return Err(usage(format!("invalid --device: {option:?}")));
        }
        let device = Device::new(source).at(target);
        // No container can make nodes, with m or without.
        b = b.device(match (access.contains('r'), access.contains('w')) {
            (true, true) => device,
            (true, false) => device.read_only(),
            (false, true) => device.write_only(),
            (false, false) => {
                return Err(usage(format!("--device {option:?}: nodes can't be made in containers")));
            }
        });
    }
    Ok(b)
}

/// What is hidden in /proc and /sys, and what can't be written: podman's `mask` and `unmask`, docker's `systempaths`.
fn covers(mut b: ContainerBuilder, args: &Args) -> Result<ContainerBuilder> {
    let paths =
        |list: &str| list.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect::<Vec<_>>();
    let mut masked = ContainerBuilder::default_masked_paths();
    let mut read_only = ContainerBuilder::default_read_only_paths();
    let before = (masked.clone(), read_only.clone());
    let listed = args.get("read-only-paths")?;
    if let Some(list) = listed {
        read_only = paths(list);
    }
    for option in args.all("security-opt")? {
        match option.split_once(['=', ':']) {
            Some(("systempaths", "unconfined") | ("unmask", "ALL")) => {
                masked.clear();
                // A list of the caller's own stays.
                if listed.is_none() {
                    read_only.clear();
                }
            }
            Some(("mask" | "unmask", list)) if paths(list).is_empty() => {
                return Err(usage(format!("--security-opt {option:?} names no path")));
            }
            Some(("mask", list)) => masked.extend(paths(list)),
            Some(("unmask", list)) => {
                for path in paths(list) {
                    if !masked.contains(&path) && !read_only.contains(&path) {
                        let what = format!("--security-opt unmask: {} itself is not covered", path.display());
                        return Err(usage(what));
                    }
                    masked.retain(|other| *other != path);
                    read_only.retain(|other| *other != path);
                }
            }
            _ => {}
        }
    }
    // Unsaid, the lists stay the library's.
    if masked != before.0 {
        b = b.masked_paths(masked);
    }
    if read_only != before.1 {
        b = b.read_only_paths(read_only);
    }
    Ok(b)
}

fn network(mut b: ContainerBuilder, image: &ImageConfig, args: &Args) -> Result<ContainerBuilder> {
    let named = [args.get("network")?, args.get("net")?];
    if let [Some(one), Some(other)] = named
        && one != other
    {
        return Err(usage("--net is the same as --network: give one of them"));
    }
    match named[0].or(named[1]) {
        None | Some("none") => {}
        Some("host") => b = b.network(Network::host()),
        Some(other) => {
            return Err(fail(format!("network {other:?} not found: there are none and host")));
        }
    }
    for (name, address) in hosts(args)? {
        b = b.host(name, address);
    }
    ports::publish(b, image, args)
}

/// The lines of --add-host.
pub fn hosts(args: &Args) -> Result<Vec<(&str, IpAddr)>> {
    let mut hosts = Vec::new();
    for option in args.all("add-host")? {
        let wrong = || usage(format!("invalid --add-host {option:?}: HOST:IP"));
        let (name, address) = option.split_once(['=', ':']).ok_or_else(wrong)?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        hosts.push((name, address.parse().map_err(|_| wrong())?));
    }
    Ok(hosts)
}
