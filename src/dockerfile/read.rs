//! From statements to instructions: what each may have, and must have.
#![forbid(unsafe_code)]

use super::bounds::Left;
use super::flags::{Flags, Kind};
use super::heredoc::Heredoc;
use super::instruction::{
    Add, Arg, Command, Copy, HealthTest, Healthcheck, Instruction, Onbuild, Run, RunDevice, RunNetwork,
    RunSecurity, Source, Variable,
};
use super::mount::RunMount;
use super::place::{Fault, Found, nearest};
use super::shell::Expander;
use super::syntax::{Arguments, Statement, shortened};
use super::values::{boolean, duration, fields};
use super::words::Word;
use std::collections::HashMap;
use std::time::Duration;

use Kind::{Many, Switch, Text};

/// FROM.
pub(super) struct From {
    pub(super) base: String,
    pub(super) name: Option<String>,
    pub(super) platform: Option<String>,
}

/// What a statement is.
pub(super) enum Item {
    From(From),
    Instruction(Instruction),
}

pub(super) fn item(statement: &Statement, escape: char) -> Found<Item> {
    let keyword = statement.keyword.text.to_ascii_uppercase();
    let without_flags = || Flags::parse(statement, &[]);
    let words = statement.words();
    if let Some(word) = words.iter().find(|word| word.text.contains('\0')) {
        return Err(Fault::new(word.place(), "a NUL byte, which no argument can have"));
    }
    let instruction = match keyword.as_str() {
        "FROM" => return from(statement).map(Item::From),
        "ADD" => add(statement)?,
        "ARG" => {
            without_flags()?;
            at_least_one(statement)?;
            let described = descriptions(&statement.comments);
            Instruction::Arg(words.iter().map(|word| arg(word, &described)).collect::<Found<_>>()?)
        }
        "CMD" => {
            without_flags()?;
            Instruction::Cmd(command(statement, words))
        }
        "COPY" => copy(statement, escape)?,
        "ENTRYPOINT" => {
            without_flags()?;
            Instruction::Entrypoint(command(statement, words))
        }
        "ENV" => Instruction::Env(variables(statement)?),
        "EXPOSE" => {
            without_flags()?;
            at_least_one(statement)?;
            Instruction::Expose(texts(words))
        }
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(statement)?),
        "LABEL" => Instruction::Label(variables(statement)?),
        "MAINTAINER" => Instruction::Maintainer(one(statement)?),
        "ONBUILD" => onbuild(statement, escape)?,
        "RUN" => run(statement, escape)?,
        "SHELL" => {
            without_flags()?;
            at_least_one(statement)?;
            if !statement.json {
                let fault = Fault::new(words[0].place(), "SHELL needs a list of JSON");
                return Err(fault.with_remedy("as in SHELL [\"/bin/bash\", \"-c\"]"));
            }
            Instruction::Shell(texts(words))
        }
        "STOPSIGNAL" => Instruction::Stopsignal(one(statement)?),
        "USER" => Instruction::User(one(statement)?),
        "VOLUME" => {
            without_flags()?;
            at_least_one(statement)?;
            if let Some(word) = words.iter().find(|word| word.text.trim().is_empty()) {
                return Err(Fault::new(word.place(), "a volume needs a path"));
            }
            Instruction::Volume(words.iter().map(|word| word.text.trim().to_owned()).collect())
        }
        "WORKDIR" => Instruction::Workdir(one(statement)?),
        _ => {
            let written = &statement.keyword;
            let fault =
                Fault::new(written.place(), format!("unknown instruction {}", shortened(&written.text)));
            return Err(match nearest(&written.text, Instruction::NAMES.into_iter()) {
                Some(near) => fault.with_remedy(format!("did you mean {near}?")),
                None => fault.with_remedy("a line that goes on below ends with a backslash"),
            });
        }
    };
    Ok(Item::Instruction(instruction))
}

fn texts(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.text.clone()).collect()
}

fn at_keyword(statement: &Statement, why: &str) -> Fault {
    Fault::new(statement.keyword.place(), format!("{} {why}", statement.keyword.text.to_ascii_uppercase()))
}

fn at_least_one(statement: &Statement) -> Found<()> {
    match statement.words() {
        [] => Err(at_keyword(statement, "needs an argument at least")),
        _ => Ok(()),
    }
}

fn one(statement: &Statement) -> Found<String> {
    Flags::parse(statement, &[])?;
    match statement.words() {
        [word] => Ok(word.text.clone()),
        _ => Err(at_keyword(statement, "needs an argument")),
    }
}

fn from(statement: &Statement) -> Found<From> {
    let words = statement.words();
    let name = match words {
        [_] => None,
        [_, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => {
            let lower = name.text.to_lowercase();
            let is_right = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
            if !lower.starts_with(|c: char| c.is_ascii_lowercase()) || !lower.chars().all(is_right) {
                let why = format!("{} is no name of a stage", shortened(&name.text));
                let remedy = "it begins with a letter, and has letters, digits, '-', '_' and '.'";
                return Err(Fault::new(name.place(), why).with_remedy(remedy));
            }
            Some(lower)
        }
        [_, keyword, _] => {
            let why = format!("{}, where AS and a name may be", shortened(&keyword.text));
            return Err(Fault::new(keyword.place(), why));
        }
        _ => {
            let fault = at_keyword(statement, "needs an image, and after it nothing or AS and a name");
            return Err(fault.with_remedy("FROM image AS name"));
        }
    };
    let flags = Flags::parse(statement, &[("platform", Text)])?;
    Ok(From { base: words[0].text.clone(), name, platform: flags.text("platform") })
}

fn command(statement: &Statement, words: &[Word]) -> Command {
    if statement.json {
        return Command::Exec(texts(words));
    }
    Command::Shell(texts(words).join(" "))
}

/// What the comments before it say of names: `# NAME description`. The first of a name counts.
pub(super) fn descriptions(comments: &[String]) -> HashMap<&str, &str> {
    comments.iter().rev().filter_map(|line| line.split_once(' ')).collect()
}

fn arg(word: &Word, described: &HashMap<&str, &str>) -> Found<Arg> {
    let (name, value) = match word.text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (word.text.clone(), None),
    };
    if name.is_empty() {
        return Err(Fault::new(word.place(), "a name is missing before the '='"));
    }
    Ok(Arg { description: described.get(&name[..]).map(|text| (*text).to_owned()), name, value })
}

fn variables(statement: &Statement) -> Found<Vec<Variable>> {
    Flags::parse(statement, &[])?;
    let Arguments::Pairs(pairs) = &statement.arguments else { return Ok(Vec::new()) };
    if pairs.is_empty() {
        return Err(at_keyword(statement, "needs an argument at least"));
    }
    let variable = |pair: &super::syntax::Pair| {
        if pair.name.text.is_empty() {
            let at = pair.name.at..pair.value.at + pair.value.length;
            return Err(Fault::new(at, "a name is missing before the '='"));
        }
        Ok(Variable { name: pair.name.text.clone(), value: pair.value.text.clone(), equals: pair.equals })
    };
    pairs.iter().map(variable).collect()
}

fn sources(statement: &Statement) -> Found<(Vec<Source>, String)> {
    let [sources @ .., destination] = statement.words() else {
        return Err(at_keyword(statement, "needs a source and a destination"));
    };
    if sources.is_empty() {
        let fault = at_keyword(statement, "needs a source and a destination");
        return Err(fault.with_remedy("the last argument is the destination"));
    }
    // In a list of JSON all is a path.
    let parse = |word: &Word| match statement.json {
        true => Ok(None),
        false => Heredoc::parse(&word.text).map_err(|fault| fault.moved(|_| word.place())),
    };
    if parse(destination)?.is_some() {
        let why = "a here-document is a source, and the last argument is the destination";
        return Err(Fault::new(destination.place(), why));
    }
    // The last of those that have the same name, as in BuildKit.
    let named: HashMap<_, _> =
        statement.heredocs.iter().map(|heredoc| (heredoc.name.as_str(), heredoc)).collect();
    let source = |word: &Word| {
        let Some(announced) = parse(word)? else { return Ok(Source::Path(word.text.clone())) };
        match named.get(announced.name.as_str()).copied() {
            Some(heredoc) => {
                let (expand, strip_tabs) = (announced.expand, announced.strip_tabs);
                Ok(Source::Heredoc(Heredoc { expand, strip_tabs, ..heredoc.clone() }))
            }
            None => Err(Fault::new(word.place(), "a here-document that has no content")),
        }
    };
    let sources = sources.iter().map(source).collect::<Found<_>>()?;
    Ok((sources, destination.text.clone()))
}

fn excludes(flags: &Flags) -> Vec<String> {
    flags.many("exclude").into_iter().map(|(_, value)| value.to_owned()).collect()
}

fn add(statement: &Statement) -> Found<Instruction> {
    let (sources, destination) = sources(statement)?;
    let flags = Flags::parse(
        statement,
        &[
            ("chown", Text),
            ("chmod", Text),
            ("link", Switch),
            ("keep-git-dir", Switch),
            ("checksum", Text),
            ("unpack", Switch),
            ("exclude", Many),
        ],
    )?;
    Ok(Instruction::Add(Add {
        sources,
        destination,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        keep_git_dir: flags.switch("keep-git-dir"),
        checksum: flags.text("checksum"),
        unpack: flags.switch("unpack"),
        exclude: excludes(&flags),
    }))
}

fn copy(statement: &Statement, escape: char) -> Found<Instruction> {
    let (sources, destination) = sources(statement)?;
    let flags = Flags::parse(
        statement,
        &[
            ("from", Text),
            ("chown", Text),
            ("chmod", Text),
            ("link", Switch),
            ("parents", Switch),
            ("exclude", Many),
        ],
    )?;
    if let Some((word, from)) = flags.placed("from") {
        let same = Expander::new(escape).expand(from, &|_: &str| None, &mut Left::new());
        if same.is_ok_and(|(expansion, _)| expansion.text != from) {
            let remedy = "give the image a stage of its own: FROM $IMAGE AS name, and --from=name here";
            return Err(Fault::new(word.place(), "--from can't have variables").with_remedy(remedy));
        }
    }
    Ok(Instruction::Copy(Copy {
        sources,
        destination,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: excludes(&flags),
    }))
}

fn run(statement: &Statement, escape: char) -> Found<Instruction> {
    let known = &[("mount", Many), ("network", Text), ("security", Text), ("device", Many)];
    let flags = Flags::parse(statement, known)?;
    let no_value = |word: &Word, what: &str, value: &str, known: &str| {
        let why = format!("{} is no {what} of RUN", shortened(value));
        Err(Fault::new(word.place(), why).with_remedy(format!("there are {known}")))
    };
    let network = match flags.placed("network") {
        None | Some((_, "default")) => RunNetwork::Default,
        Some((_, "none")) => RunNetwork::None,
        Some((_, "host")) => RunNetwork::Host,
        Some((word, other)) => return no_value(word, "network", other, "default, none and host"),
    };
    let security = match flags.placed("security") {
        None | Some((_, "sandbox")) => RunSecurity::Sandbox,
        Some((_, "insecure")) => RunSecurity::Insecure,
        Some((word, other)) => return no_value(word, "security", other, "sandbox and insecure"),
    };
    let mount = |(word, value): (&Word, &str)| {
        RunMount::parse(value, escape).map_err(|fault| fault.moved(|_| word.place()))
    };
    Ok(Instruction::Run(Run {
        command: command(statement, statement.words()),
        heredocs: statement.heredocs.clone(),
        mounts: flags.many("mount").into_iter().map(mount).collect::<Found<_>>()?,
        network,
        security,
        devices: flags.many("device").into_iter().map(device).collect::<Found<_>>()?,
    }))
}

fn device((word, value): (&Word, &str)) -> Found<RunDevice> {
    let fault = |why: String| Fault::new(word.place(), why);
    let Some(fields) = fields(value) else {
        return Err(fault("in --device a field is quoted as a whole, or not at all".into()));
    };
    let mut device = RunDevice { name: String::new(), required: false };
    for field in &fields {
        let (key, value) =
            field.split_once('=').map_or((&field[..], None), |(key, value)| (key, Some(value)));
        match (key.to_ascii_lowercase().as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                let why = || fault(format!("{} is no value of required", shortened(value)));
                device.required = boolean(value).ok_or_else(why)?;
            }
            ("name", Some(value)) if device.name.is_empty() => device.name = value.to_owned(),
            ("name", Some(_)) => {
                return Err(fault(format!("the device has a name already: {}", shortened(&device.name))));
            }
            // A name by itself; it may have a '='.
            _ if device.name.is_empty() => device.name = field.clone(),
            _ => return Err(fault(format!("{} is nothing that a device has", shortened(field)))),
        }
    }
    Ok(device)
}

fn healthcheck(statement: &Statement) -> Found<Healthcheck> {
    let [kind, words @ ..] = statement.words() else {
        return Err(
            at_keyword(statement, "needs an argument at least").with_remedy("CMD and a command, or NONE")
        );
    };
    if kind.text.eq_ignore_ascii_case("none") {
        return match words {
            // Flags say nothing then, whatever they are: BuildKit does not look at them.
            [] => Ok(Healthcheck::None),
            [word, ..] => Err(Fault::new(word.place(), "HEALTHCHECK NONE takes no arguments")),
        };
    }
    let known = &[
        ("interval", Text),
        ("timeout", Text),
        ("start-period", Text),
        ("start-interval", Text),
        ("retries", Text),
    ];
    let flags = Flags::parse(statement, known)?;
    if !kind.text.eq_ignore_ascii_case("cmd") {
        let fault = Fault::new(kind.place(), format!("HEALTHCHECK has no {}", shortened(&kind.text)));
        return Err(fault.with_remedy("CMD and a command, or NONE"));
    }
    if words.is_empty() {
        return Err(Fault::new(kind.place(), "a command is missing after HEALTHCHECK CMD"));
    }
    let time = |name: &str| {
        let Some((word, value)) = flags.placed(name) else { return Ok(None) };
        let fault = |why: String| Fault::new(word.place(), why).with_remedy("as in 30s, 1m30s or 500ms");
        match duration(value) {
            Some(Duration::ZERO) => Ok(None),
            Some(short) if short < Duration::from_millis(1) => {
                Err(fault(format!("--{name} is a millisecond at least")))
            }
            Some(time) => Ok(Some(time)),
            None => Err(fault(format!("{} is no duration", shortened(value)))),
        }
    };
    let retries = match flags.placed("retries") {
        None => None,
        Some((word, value)) => match value.parse::<u32>() {
            Ok(count) if count <= i32::MAX as u32 => Some(count).filter(|count| *count > 0),
            _ => {
                return Err(Fault::new(word.place(), format!("{} is no count of retries", shortened(value))));
            }
        },
    };
    Ok(Healthcheck::Test(HealthTest {
        command: command(statement, words),
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries,
    }))
}

fn onbuild(statement: &Statement, escape: char) -> Found<Instruction> {
    Flags::parse(statement, &[])?;
    let Arguments::Statement(inner) = &statement.arguments else {
        return Err(at_keyword(statement, "needs an instruction"));
    };
    let keyword = inner.keyword.text.to_ascii_uppercase();
    if ["ONBUILD", "FROM", "MAINTAINER"].contains(&keyword.as_str()) {
        return Err(Fault::new(inner.keyword.place(), format!("{keyword} can't follow ONBUILD")));
    }
    let mut with_content = inner.as_ref().clone();
    with_content.heredocs = statement.heredocs.clone();
    let Item::Instruction(instruction) = item(&with_content, escape)? else {
        return Err(Fault::new(inner.keyword.place(), "FROM can't follow ONBUILD"));
    };
    let mut text = inner.text.clone();
    for heredoc in &statement.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Ok(Instruction::Onbuild(Onbuild { text, instruction: Box::new(instruction) }))
}
