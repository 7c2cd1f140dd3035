//! From the command line to a build.
#![forbid(unsafe_code)]

use super::output::Output;
use super::steps::Steps;
use crate::args::Args;
use crate::fail::{Fail, Result, context, fail, usage};
use crate::format::{line, print, visible};
use crate::{flags, limits, moment};
use coracle::dockerfile::Warning;
use coracle::{Build, BuildContext, BuildEvent, BuildSecret, Limits, Network, Store};
use std::fs;
use std::io::{self, Cursor, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// As much as a Dockerfile may have.
const DOCKERFILE_MAX: u64 = 16 << 20;

pub fn build(store: &Store, args: &Args) -> Result<u8> {
    let (build, text) = source(args)?;
    let build = settings(build, args)?;
    if args.has("check") {
        return check(&build, text.as_deref());
    }
    let output = args.all("output")?.into_iter().map(str::parse::<Output>).collect::<Result<Vec<_>>>()?;
    let quiet = args.has("quiet");
    let how = match (quiet, args.get("progress")?.unwrap_or("auto")) {
        (true, _) | (_, "quiet" | "none") => "quiet",
        (_, "auto") if io::stdout().is_terminal() => "tty",
        (_, "auto") => "plain",
        (_, how @ ("plain" | "tty")) => how,
        (_, other) => return Err(usage(format!("--progress {other:?}: auto, plain, tty or quiet"))),
    };
    // Stdout may be for an archive.
    let steps = Steps::new(how, output.iter().any(Output::is_stdout));
    let steps = Arc::new(Mutex::new(steps));
    let told = steps.clone();
    let build = build.on_event(move |event: &BuildEvent| {
        told.lock().unwrap_or_else(PoisonError::into_inner).tell(event);
    });
    let built = build.run(store);
    let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
    steps.end();
    // A step that could not be executed is a build that failed.
    let image = built.map_err(|error| Fail { code: None, ..error.into() })?;
    if let Some(path) = args.raw("iidfile") {
        fs::write(path, image.id().to_string()).map_err(context(format!("--iidfile {}", path.display())))?;
    }
    for output in &output {
        output.write(&image)?;
    }
    if quiet {
        line(image.id().to_string())?;
    }
    steps.say(&format!("Successfully built {}", crate::containers::short(&image.id().hex())));
    for tag in args.all("tag")? {
        steps.say(&format!("Successfully tagged {}", tag.parse::<coracle::Reference>()?.familiar()));
    }
    steps.failed().map_or(Ok(0), |error| Err(fail(format!("writing the progress: {error}"))))
}

/// The context and the Dockerfile; of the latter the text, where that is what was given.
fn source(args: &Args) -> Result<(Build, Option<PathBuf>)> {
    let operand = &args.operands[0];
    let file = args.raw("file");
    let stdin_file = file.is_some_and(|file| file == "-");
    if operand == "-" {
        if stdin_file {
            return Err(usage("stdin can't be both: give the context or the Dockerfile from elsewhere"));
        }
        return from_stdin(file.map(Path::new)).map(|build| (build, None));
    }
    if let Some(text) = operand.to_str()
        && ["http://", "https://", "git://", "git@", "github.com/"]
            .iter()
            .any(|start| text.starts_with(start))
    {
        return Err(usage(format!("{text}: a context is a directory here, or an archive on stdin: -")));
    }
    let dir = Path::new(operand);
    if !dir.is_dir() {
        return Err(fail(format!("unable to prepare context: path {:?} is no directory", dir.display())));
    }
    let build = Build::context(dir);
    if stdin_file {
        let text = read(io::stdin().lock(), Vec::new())?;
        return Ok((build.dockerfile_text(text), None));
    }
    // As docker has it, from here and not from the context.
    let path = match file {
        Some(file) => std::path::absolute(file).map_err(context(format!("--file {}", file.display())))?,
        None => dir.join("Dockerfile"),
    };
    let build = if file.is_some() { build.dockerfile(&path) } else { build };
    // The library reads that one where there is no other.
    let small = path.with_file_name("dockerfile");
    let is_small =
        path.file_name().is_some_and(|name| name == "Dockerfile") && !path.exists() && small.exists();
    Ok((build, Some(if is_small { small } else { path })))
}

fn read(reader: impl Read, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    reader.take(DOCKERFILE_MAX + 1).read_to_end(&mut bytes).map_err(context("reading stdin"))?;
    Ok(bytes)
}

/// An archive, or a Dockerfile alone: its first bytes tell.
fn from_stdin(file: Option<&Path>) -> Result<Build> {
    const BLOCK: usize = 512;
    if io::stdin().is_terminal() {
        return Err(fail("a Dockerfile or an archive is not typed: redirect stdin"));
    }
    let mut head = Vec::new();
    // From the descriptor itself, as the rest goes to another thread.
    let mut stdin = fs::File::from(std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?);
    (&mut stdin).take(BLOCK as u64).read_to_end(&mut head).map_err(context("reading stdin"))?;
    let magic: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"];
    let is_tar = head.get(257..262).is_some_and(|magic| magic == b"ustar");
    if is_tar || magic.iter().any(|magic| head.starts_with(magic)) {
        let build = Build::context_tar(Cursor::new(head).chain(stdin));
        return Ok(match file {
            Some(file) => build.dockerfile(file),
            None => build,
        });
    }
    if file.is_some() {
        return Err(usage("--file names a Dockerfile in an archive, and there is none on stdin"));
    }
    Ok(Build::empty().dockerfile_text(read(stdin, head)?))
}

fn settings(mut build: Build, args: &Args) -> Result<Build> {
    for tag in args.all("tag")? {
        build = build.tag(tag);
    }
    if let Some(target) = args.get("target")? {
        build = build.target(target);
    }
    if let Some(time) = moment::source_date_epoch()? {
        build = build.source_date_epoch(time);
    }
    for arg in args.all("build-arg")? {
        match arg.split_once('=') {
            Some((name, value)) => build = build.arg(name, value),
            // Without a value it is the environment's; without that the Dockerfile's.
            None => {
                if let Ok(value) = std::env::var(arg) {
                    build = build.arg(arg, value);
                }
            }
        }
    }
    for (name, place) in pairs(args, "build-context")? {
        build = build.build_context(name, further(place)?);
    }
    for text in args.all("secret")? {
        let (id, secret) = secret(text)?;
        build = build.secret(id, secret);
    }
    for text in args.all("ssh")? {
        build = match text.split_once('=') {
            Some((id, socket)) => build.ssh(id, socket),
            None => {
                let socket = std::env::var_os("SSH_AUTH_SOCK");
                build.ssh(text, socket.ok_or_else(|| fail(format!("--ssh {text}: no SSH_AUTH_SOCK is set")))?)
            }
        };
    }
    for (key, value) in pairs(args, "label")? {
        build = build.label(key, value);
    }
    for (name, address) in flags::hosts(args)? {
        build = build.add_host(name, address);
    }
    for limit in args.all("ulimit")? {
        build = build.ulimit(limit.parse()?);
    }
    for what in args.all("allow")? {
        build = match what {
            "network.host" => build.allow_host_network(true),
            "security.insecure" => build.allow_insecure(true),
            other => return Err(usage(format!("--allow {other:?}: network.host or security.insecure"))),
        };
    }
    build = match args.get("network")? {
        None | Some("default" | "host") => build,
        Some("none") => build.network(Network::none()),
        Some(other) => return Err(fail(format!("network {other:?} not found: there are none and host"))),
    };
    if let Some(platform) = args.get("platform")? {
        build = build.platform(platform.parse()?);
    }
    for text in args.all("cache-from")? {
        let image = match text.strip_prefix("type=") {
            None => text,
            Some(typed) => typed.strip_prefix("registry,ref=").ok_or_else(|| {
                usage(format!("--cache-from {text:?}: an image of the store, or type=registry,ref=IMAGE"))
            })?,
        };
        build = build.cache_from(image);
    }
    if let Some(dir) = args.raw("cache-dir") {
        build = build.cache_dir(dir);
    }
    if let Some(stages) = args.number::<usize>("jobs")? {
        build = build.parallel(stages);
    }
    let build = build.limits(limits::all(Limits::default(), args)?).no_cache(args.has("no-cache"));
    pulling(build, args)
}

#[cfg(feature = "registry")]
fn pulling(build: Build, args: &Args) -> Result<Build> {
    use coracle::PullPolicy;
    let policy = match args.get("pull")? {
        Some("always" | "true") => PullPolicy::Always,
        None | Some("missing" | "false") => PullPolicy::Missing,
        Some("never") => PullPolicy::Never,
        Some(other) => return Err(usage(format!("--pull {other:?}: missing, always or never"))),
    };
    Ok(build.pull(policy).pull_with(crate::pull::reach(args)?))
}

#[cfg(not(feature = "registry"))]
fn pulling(build: Build, args: &Args) -> Result<Build> {
    match args.get("pull")? {
        Some("always" | "true") => Err(crate::pull::not_there("--pull")),
        _ => Ok(build),
    }
}

/// `KEY=VALUE` of each; a key alone has no value.
fn pairs<'a>(args: &'a Args, name: &str) -> Result<Vec<(&'a str, &'a str)>> {
    Ok(args.all(name)?.into_iter().map(|text| text.split_once('=').unwrap_or((text, ""))).collect())
}

fn further(place: &str) -> Result<BuildContext> {
    if let Some(image) = place.strip_prefix("docker-image://") {
        return Ok(BuildContext::image(image));
    }
    let path = Path::new(place);
    if place.contains("://") {
        return Err(usage(format!(
            "--build-context {place:?}: a directory, an archive or docker-image://NAME"
        )));
    }
    Ok(if path.is_file() { BuildContext::tar_file(path) } else { BuildContext::dir(path) })
}

/// `id=ID,src=FILE`, `id=ID,env=NAME`; of an id alone the variable of that name, or the file.
fn secret(text: &str) -> Result<(&str, BuildSecret)> {
    let wrong = || usage(format!("invalid --secret {text:?}: id=ID,src=FILE or id=ID,env=NAME"));
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        match key {
            "id" => id = Some(value),
            "src" | "source" => file = Some(value),
            "env" => variable = Some(value),
            "type" if ["file", "env"].contains(&value) => kind = Some(value),
            _ => return Err(wrong()),
        }
    }
    let id = id.ok_or_else(wrong)?;
    if kind == Some("env") && variable.is_none() {
        variable = Some(file.take().unwrap_or(id));
    }
    if file.is_none() && variable.is_none() {
        match std::env::var_os(id) {
            Some(_) => variable = Some(id),
            None => file = Some(id),
        }
    }
    match (file, variable) {
        (Some(file), None) => Ok((id, BuildSecret::file(file))),
        (None, Some(name)) => {
            let value =
                std::env::var_os(name).ok_or_else(|| fail(format!("secret {id}: no ${name} is set")))?;
            Ok((id, std::os::unix::ffi::OsStrExt::as_bytes(value.as_os_str()).into()))
        }
        _ => Err(wrong()),
    }
}

/// As `docker build --check`: what each rule says, with the lines.
fn check(build: &Build, file: Option<&Path>) -> Result<u8> {
    let warnings = build.check()?;
    if warnings.is_empty() {
        line("Check complete, no warnings found.")?;
        return Ok(0);
    }
    let s = if warnings.len() == 1 { " has" } else { "s have" };
    line(format!("Check complete, {} warning{s} been found!", warnings.len()))?;
    let text = file.map(fs::read_to_string).transpose().map_err(context("reading the Dockerfile again"))?;
    let name = file.and_then(Path::file_name).map_or("Dockerfile".into(), |name| name.to_string_lossy());
    for Warning { rule, message, span, .. } in &warnings {
        print(format!(
            "\nWARNING: {} - {}\n{}\n{name}:{}\n",
            rule.name(),
            rule.url(),
            visible(message),
            span.first
        ))?;
        if let Some(text) = &text {
            print(excerpt(text, span.first, span.last))?;
        }
    }
    Ok(1)
}

/// The lines that a rule is about, with those around them.
fn excerpt(text: &str, first: usize, last: usize) -> String {
    const RULE: &str = "--------------------\n";
    const AROUND: usize = 2;
    let mut shown = RULE.to_owned();
    for (at, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        if at + AROUND >= first && at <= last + AROUND {
            let mark = if (first..=last).contains(&at) { ">>> " } else { "    " };
            shown += &format!("{at:4} | {mark}{}\n", visible(line));
        }
    }
    shown + RULE
}
