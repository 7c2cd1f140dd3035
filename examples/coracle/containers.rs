//! What is done with containers that are there: `ps`, `stop`, `kill`, `rm`, …
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::fail::{Result, each, fail, usage, warn};
use crate::format::{self, Table, ago, binary_size, human, line, print};
use coracle::{Container, Error, ErrorKind, State, Stats, Store};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::{Duration, Instant, SystemTime};

pub const STOP: &[Flag] = &[
    flag("signal", "SIGNAL", "What is sent first").short('s'),
    flag("time", "SECONDS", "How long it is waited before it is killed (default 10)").short('t'),
    flag("timeout", "SECONDS", "The same as --time"),
];
pub const KILL: &[Flag] = &[flag("signal", "SIGNAL", "What is sent (default KILL)").short('s')];
pub const RM: &[Flag] = &[
    switch("force", "Kill it if it runs").short('f'),
    switch("volumes", "Always so: its anonymous volumes go with it").short('v'),
];
pub const PS: &[Flag] = &[
    switch("all", "Also those that don't run").short('a'),
    flag("filter", "KEY=VALUE", "name=, id=, status=, label=, exited=, ancestor=, before=, since=")
        .short('f'),
    flag("format", "FORMAT", "json, or {{.ID}}, {{.Names}}, …"),
    flag("last", "N", "The last ones made, in any state").short('n'),
    switch("latest", "The last one made, in any state").short('l'),
    switch("no-trunc", "Whole ids and commands"),
    switch("quiet", "Ids only").short('q'),
];
pub const STATS: &[Flag] = &[
    switch("all", "Also those that don't run").short('a'),
    flag("format", "FORMAT", "json, or {{.Name}}, {{.MemUsage}}, …"),
    switch("no-stream", "Once, instead of every second"),
    switch("no-trunc", "Whole ids"),
];

fn runs(container: &Container) -> bool {
    matches!(container.state(), State::Running | State::Paused)
}

/// Does it to each named container, and says its name.
fn for_each(store: &Store, args: &Args, work: impl Fn(Container) -> Result<()>) -> Result<u8> {
    each(args.names()?, |name| {
        work(store.container(name)?)?;
        line(name)
    })
}

pub fn stop(store: &Store, args: &Args) -> Result<u8> {
    let signal = args.get("signal")?.map(str::parse).transpose()?;
    let time: Option<i64> = args.number("timeout")?.or(args.number("time")?);
    for_each(store, args, |container| {
        if !runs(&container) {
            return Ok(());
        }
        let time = match time {
            // As docker: any negative number is no limit.
            Some(time) => u64::try_from(time).ok().map(Duration::from_secs),
            None => Some(container.stop_timeout().unwrap_or(Duration::from_secs(10))),
        };
        // A frozen process can't answer.
        if container.state() == State::Paused {
            container.unpause()?;
        }
        let ended = match (signal, time) {
            (None, Some(time)) => container.stop(time).map(drop),
            (signal, time) => {
                let signal = signal.map_or_else(|| container.stop_signal(), Ok)?;
                container.kill(signal).and_then(|()| match time {
                    None => container.wait().map(drop),
                    Some(time) => match container.wait_timeout(time)? {
                        Some(_) => Ok(()),
                        None => {
                            container.kill(coracle::Signal::SIGKILL).and_then(|()| container.wait().map(drop))
                        }
                    },
                })
            }
        };
        gone_is_fine(ended)
    })
}

/// It ended by itself in the meantime.
fn gone_is_fine(result: coracle::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::State => Ok(()),
        other => Ok(other?),
    }
}

pub fn kill(store: &Store, args: &Args) -> Result<u8> {
    let signal = args.get("signal")?.unwrap_or("KILL").parse()?;
    for_each(store, args, |container| Ok(container.kill(signal)?))
}

pub fn pause(store: &Store, args: &Args) -> Result<u8> {
    for_each(store, args, |container| Ok(container.pause()?))
}

pub fn unpause(store: &Store, args: &Args) -> Result<u8> {
    for_each(store, args, |container| Ok(container.unpause()?))
}

pub fn wait(store: &Store, args: &Args) -> Result<u8> {
    each(args.names()?, |name| {
        let status = store.container(name)?.wait()?;
        line(status.shell_code().to_string())
    })
}

pub fn rm(store: &Store, args: &Args) -> Result<u8> {
    let force = args.has("force");
    if args.is_off("volumes") {
        return Err(usage("--volumes=false: anonymous volumes go with their container"));
    }
    each(args.names()?, |name| {
        let container = match store.container(name) {
            Err(error) if force && error.kind() == ErrorKind::NotFound => {
                eprintln!("coracle: {error}");
                return Ok(());
            }
            other => other?,
        };
        if runs(&container) && !force {
            return Err(fail(format!(
                "container {name} is {}: stop it first, or use --force",
                container.state()
            )));
        }
        container.remove()?;
        line(name)
    })
}

pub fn port(store: &Store, args: &Args) -> Result<u8> {
    let names = args.names()?;
    let container = store.container(names[0])?;
    let Some(wanted) = names.get(1) else {
        for (port, _) in crate::inspect::ports(&container, &crate::run::record(&container)?) {
            line(format!("{port}/tcp -> {}", container.host_addr(port)?))?;
        }
        return Ok(0);
    };
    let port = wanted.strip_suffix("/tcp").unwrap_or(wanted);
    line(container.host_addr(crate::args::parse("port", port)?)?.to_string())?;
    Ok(0)
}

pub fn top(store: &Store, args: &Args) -> Result<u8> {
    let names = args.names()?;
    if names.len() > 1 {
        return Err(usage("top: options for ps are not known here"));
    }
    let mut table = Table::new(&["UID", "PID", "PPID", "STAT", "TIME", "CMD"]);
    for process in store.container(names[0])?.top()? {
        let seconds = process.time.as_secs();
        let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        table.row([
            process.uid.to_string(),
            process.pid.to_string(),
            process.parent.to_string(),
            process.state.to_string(),
            time,
            process.command,
        ]);
    }
    print(table.text())?;
    Ok(0)
}

/// `Up 3 seconds (Paused)`, `Exited (0) 2 minutes ago`, `Created`.
fn status(container: &Container) -> String {
    let since = |time: Option<SystemTime>| {
        human(time.and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default())
    };
    match container.state() {
        State::Running => format!("Up {}", since(container.started())),
        State::Paused => format!("Up {} (Paused)", since(container.started())),
        State::Exited => {
            let code = container.try_wait().ok().flatten().map_or(-1, |status| status.shell_code());
            format!("Exited ({code}) {} ago", since(container.finished()))
        }
        _ => "Created".into(),
    }
}

pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// What is executed, as one line.
fn command_line(container: &Container) -> Result<String> {
    let (path, args) = crate::inspect::command(container, &crate::run::record(container)?);
    let words = std::iter::once(path).chain(args);
    Ok(words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
}

fn listed(container: &Container, whole: bool) -> Result<Value> {
    let mut command = command_line(container)?;
    if !whole && command.chars().count() > 20 {
        command = command.chars().take(19).chain(['…']).collect();
    }
    let ports = crate::inspect::ports(container, &crate::run::record(container)?);
    let ports: Vec<_> = match runs(container) {
        true => ports.iter().map(|(port, host)| format!("{host}->{port}/tcp")).collect(),
        false => Vec::new(),
    };
    let labels: Vec<_> = container.labels().iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(json!({
        "ID": if whole { container.id() } else { container.short_id() },
        "Image": familiar(&container.image_name()),
        "Command": format!("\"{command}\""),
        "CreatedAt": coracle::rfc3339(container.created()),
        "RunningFor": ago(container.created()),
        "State": container.state().to_string(),
        "Status": status(container),
        "Names": container.name(),
        "Labels": labels.join(","),
        "Ports": ports.join(", "),
    }))
}

/// A name as people write it: without docker's own registry.
pub fn familiar(name: &str) -> String {
    name.parse::<coracle::Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

/// Docker's. Some can't be here.
const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];

/// Whether a container passes `--filter`: all keys, each with any of its values.
fn passes(store: &Store, container: &Container, filters: &[(&str, &str)]) -> Result<bool> {
    let matches = |key: &str, value: &str| -> Result<bool> {
        Ok(match key {
            "name" => {
                // Docker's is an expression; people use its two anchors.
                let (from, value) = value.strip_prefix('^').map_or((false, value), |value| (true, value));
                let (to, value) = value.strip_suffix('$').map_or((false, value), |value| (true, value));
                let (name, value) = (container.name(), value.trim_start_matches('/'));
                match (from, to) {
                    (false, false) => name.contains(value),
                    (true, false) => name.starts_with(value),
                    (false, true) => name.ends_with(value),
                    (true, true) => name == value,
                }
            }
            "before" => container.created() < store.container(value)?.created(),
            "since" => container.created() > store.container(value)?.created(),
            "id" => container.id().starts_with(value),
            "status" if STATES.contains(&value) => container.state().to_string() == value,
            "status" => return Err(usage(format!("invalid filter status={value:?}"))),
            "ancestor" => {
                let name = container.image_name();
                name == value || familiar(&name) == familiar(value)
            }
            "exited" => {
                container.state() == State::Exited
                    && container.try_wait()?.is_some_and(|status| status.shell_code().to_string() == value)
            }
            "label" => match value.split_once('=') {
                Some((key, value)) => container.labels().get(key).is_some_and(|found| found == value),
                None => container.labels().contains_key(value),
            },
            _ => return Err(usage(format!("invalid filter {key:?}"))),
        })
    };
    for (key, _) in filters {
        let mut any = false;
        let mut every = true;
        for (_, value) in filters.iter().filter(|(other, _)| other == key) {
            let found = matches(key, value)?;
            any |= found;
            every &= found;
        }
        // Labels add up, as docker's do.
        if !(if *key == "label" { every } else { any }) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `KEY=VALUE` filters.
pub fn filters(args: &Args) -> Result<Vec<(&str, &str)>> {
    let wrong = |text: &str| usage(format!("invalid filter {text:?}: KEY=VALUE"));
    args.all("filter")?.into_iter().map(|text| text.split_once('=').ok_or_else(|| wrong(text))).collect()
}

pub fn ps(store: &Store, args: &Args) -> Result<u8> {
    let filters = filters(args)?;
    let last = if args.has("latest") { Some(1) } else { args.number::<usize>("last")? };
    let all = args.has("all")
        || last.is_some()
        || filters.iter().any(|(key, _)| matches!(*key, "status" | "exited"));
    let mut found = Vec::new();
    warn(store.broken_containers()?);
    for container in store.containers()?.into_iter().rev() {
        if (all || runs(&container)) && passes(store, &container, &filters)? {
            found.push(container);
        }
    }
    found.truncate(last.unwrap_or(usize::MAX));
    let whole = args.has("no-trunc");
    if args.has("quiet") {
        found.iter().try_for_each(|one| line(if whole { one.id() } else { one.short_id() }))?;
        return Ok(0);
    }
    let mut values = Vec::new();
    for container in &found {
        match listed(container, whole) {
            Ok(value) => values.push(value),
            // It went while we looked.
            Err(_) if store.container(container.id()).is_err() => {}
            Err(fail) => return Err(fail),
        }
    }
    let columns = [
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
        ("NAMES", "Names"),
    ];
    format::list(args.get("format")?, &columns, &values)?;
    Ok(0)
}

pub fn stats(store: &Store, args: &Args) -> Result<u8> {
    let names = args.names()?;
    let once = args.has("no-stream");
    if names.is_empty() {
        warn(store.broken_containers()?);
    }
    let mut before: Vec<(String, Instant, Duration)> = Vec::new();
    let mut first = true;
    loop {
        let chosen = match names.is_empty() {
            true => store.containers()?.into_iter().filter(|one| args.has("all") || runs(one)).collect(),
            false => names.iter().map(|name| store.container(name)).collect::<Result<Vec<_>, Error>>()?,
        };
        let mut values = Vec::new();
        let mut now = Vec::new();
        for container in &chosen {
            let stats = match container.stats() {
                Err(error) if error.kind() == ErrorKind::State => Stats::default(),
                // Among all of them, one without figures has none.
                Err(error) if names.is_empty() && error.kind() == ErrorKind::Unsupported => Stats::default(),
                other => other?,
            };
            let at = Instant::now();
            let used = stats.cpu_usage.unwrap_or_default();
            let earlier = before.iter().find(|(id, ..)| id == container.id());
            // Of the time since the last look; at the first, since the start.
            let (since, used_then) = match earlier {
                Some((_, then, used)) => (at - *then, *used),
                None => {
                    let since =
                        container.started().and_then(|time| SystemTime::now().duration_since(time).ok());
                    (since.unwrap_or_default(), Duration::ZERO)
                }
            };
            let share = used.saturating_sub(used_then).as_secs_f64() / since.as_secs_f64().max(1e-3);
            values.push(usage_of(container, &stats, share, args.has("no-trunc")));
            now.push((container.id().to_owned(), at, used));
        }
        before = now;
        // A moment is needed to see a share of processor time.
        if once && first && !values.is_empty() {
            first = false;
            std::thread::sleep(Duration::from_millis(200));
            continue;
        }
        if !once && std::io::stdout().is_terminal() {
            print("\x1b[H\x1b[2J")?;
        }
        let columns = [
            ("CONTAINER ID", "ID"),
            ("NAME", "Name"),
            ("CPU %", "CPUPerc"),
            ("MEM USAGE / LIMIT", "MemUsage"),
            ("MEM %", "MemPerc"),
            ("BLOCK I/O", "BlockIO"),
            ("PIDS", "PIDs"),
        ];
        format::list(args.get("format")?, &columns, &values)?;
        if once {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn usage_of(container: &Container, stats: &Stats, share: f64, whole: bool) -> Value {
    let shown = |bytes: Option<u64>| bytes.map_or("--".into(), binary_size);
    let percent = match (stats.memory_current, stats.memory_max) {
        (Some(current), Some(max)) if max > 0 => format!("{:.2}%", current as f64 / max as f64 * 100.0),
        _ => "--".into(),
    };
    let disks = stats.io.as_ref().map(|disks| {
        let sum = |of: fn(&coracle::IoStats) -> u64| disks.iter().map(of).sum();
        format!(
            "{} / {}",
            binary_size(sum(|disk| disk.read_bytes)),
            binary_size(sum(|disk| disk.written_bytes))
        )
    });
    json!({
        "ID": if whole { container.id() } else { short(container.id()) },
        "Name": container.name(),
        "CPUPerc": stats.cpu_usage.map_or("--".into(), |_| format!("{:.2}%", share * 100.0)),
        "MemUsage": format!("{} / {}", shown(stats.memory_current), shown(stats.memory_max)),
        "MemPerc": percent,
        "BlockIO": disks.unwrap_or_else(|| "--".into()),
        "PIDs": stats.pids_current.map_or("--".into(), |pids| pids.to_string()),
    })
}
