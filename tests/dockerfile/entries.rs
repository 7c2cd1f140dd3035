//! What the fuzz targets (`fuzz/`) and the tests run on any bytes: nothing may panic, and what is said has to hold.
//! Each says whether the input was a right one.

mod naive;

use coracle::dockerfile::{
    Base, Dockerfile, Expander, Heredoc, Ignore, Instruction, Parents, RunMount, Source, Span, Step, frontend,
};
use coracle::{Error, ErrorKind};
use naive::Tries;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// The longest result of an expansion, and the longest line, as they are documented.
const EXPANDED_MAX: usize = 16 << 20;
const LINE_MAX: usize = 65535;

fn check(error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::TooLarge), "{error}");
    assert!(error.to_string().len() < 20_000);
}

/// The lines of a text, for places in it.
struct Lines<'a>(Vec<&'a str>);

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self(text.split('\n').collect())
    }

    /// There is such a line, and such a column, or the one behind its end.
    fn have(&self, line: usize, column: usize) {
        let length = self.0[line - 1].chars().count();
        assert!((1..=length + 1).contains(&column), "{line}:{column} of {length} characters");
    }

    /// An error has a place, and it is here.
    fn have_place_of(&self, error: &Error) {
        check(error);
        let (line, column) = error.position().expect("a place");
        self.have(line, column);
    }
}

/// A Dockerfile is read, and all of it expanded, checked, asked for its stages, and written again.
pub fn dockerfile(bytes: &[u8]) -> bool {
    if let Some(found) = str::from_utf8(bytes).ok().and_then(frontend) {
        assert!(!found.word().is_empty() || found.value.is_empty() || found.value.starts_with(' '));
    }
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let lines = Lines::new(&text);
    let file = match Dockerfile::parse(bytes) {
        Ok(file) => file,
        Err(error) => {
            lines.have_place_of(&error);
            return false;
        }
    };
    let all = file.stages().iter().flat_map(|stage| {
        let steps = stage.steps.iter().map(|step| step.span);
        std::iter::once(stage.span).chain(steps)
    });
    let spans: Vec<Span> = file.globals().iter().map(|step| step.span).chain(all).collect();
    for span in &spans {
        assert!(span.first <= span.last && span.last <= lines.0.len());
        lines.have(span.first, span.column);
    }
    // No line is of two instructions.
    assert!(spans.windows(2).all(|two| two[0].last < two[1].first));
    let begins: HashSet<_> = spans.iter().map(|span| (span.first, span.column)).collect();
    let is_one = |span: &Span| begins.contains(&(span.first, span.column));
    assert!(file.gaps().iter().all(is_one));

    let env = |name: &str| (name.len() == 1).then(|| format!("<{name}>"));
    let steps = file.stages().iter().flat_map(|stage| &stage.steps);
    for step in file.globals().iter().chain(steps) {
        match step.expand(&env) {
            Ok(expanded) => {
                assert_eq!(expanded.instruction.name(), step.instruction.name());
                assert!(expanded.used.iter().all(|name| name.len() == 1));
                assert!(expanded.unset.iter().all(|name| name.len() != 1));
            }
            Err(error) => {
                lines.have_place_of(&error);
                let line = error.position().map_or(0, |(line, _)| line);
                assert!((step.span.first..=step.span.last).contains(&line), "{error}");
            }
        }
        match &step.instruction {
            Instruction::Arg(args) => {
                for default in args.iter().filter_map(|arg| arg.value.as_deref()) {
                    step.expand_default(default, &env)
                        .err()
                        .iter()
                        .for_each(|error| lines.have_place_of(error));
                }
            }
            Instruction::Onbuild(trigger) => {
                let read = Dockerfile::parse_trigger(&trigger.text);
                match &read {
                    Ok(read) => assert_eq!(read.instruction.name(), trigger.instruction.name()),
                    Err(error) => Lines::new(&trigger.text).have_place_of(error),
                }
                // With another escape character it means another thing in an image.
                let line = trigger.text.lines().next().unwrap_or_default();
                if file.directives().escape() == '\\' && is_a_line(line, '\\') {
                    assert_eq!(read.unwrap().instruction, *trigger.instruction);
                }
            }
            _ => {}
        }
    }
    for (at, stage) in file.stages().iter().enumerate() {
        match stage.expand_base(&env) {
            Ok(base) => match file.base(at, &base.text) {
                Ok(Base::Stage(base)) => assert!(base < at),
                Ok(_) => assert!(!base.text.is_empty()),
                Err(error) => lines.have_place_of(&error),
            },
            Err(error) => lines.have_place_of(&error),
        }
        stage.expand_platform(&env).err().iter().for_each(|error| lines.have_place_of(error));
        if let Some(name) = &stage.name {
            assert!(file.target(name).unwrap() >= at);
        }
        for step in &stage.steps {
            sources(&file, at, step);
        }
    }
    assert_eq!(file.target("").unwrap(), file.stages().len() - 1);
    assert!(file.target("0").is_err());
    let ignore = Ignore::new(["b", "**/x*"]).unwrap();
    match file.check(Some(&ignore), &|base| (base == "a").then(Vec::new)) {
        Ok(warnings) => {
            assert!(warnings.is_sorted_by_key(|one| one.span));
            assert!(warnings.iter().all(|one| is_one(&one.span) && !one.message.contains('\0')));
            // What variables came to is not told at length, though names of the file may be.
            assert!(warnings.iter().all(|one| one.message.len() <= 2_000 + 8 * text.len()));
        }
        Err(error) => check(&error),
    }
    if let Some(written) = written(&file) {
        let again = Dockerfile::parse(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
        same(&file, &again);
    }
    true
}

/// Whether it is a line by itself: neither too long, nor one that goes on below. One that ended in another white space than
/// that which may be behind an escape character does, once that is gone.
fn is_a_line(text: &str, escape: char) -> bool {
    let before = text.trim_end_matches([' ', '\t']).strip_suffix(escape);
    text.len() <= LINE_MAX && before.is_none_or(|before| before.ends_with(escape))
}

/// The file once more, from what was read of it; `None` where that does not say all.
fn written(file: &Dockerfile) -> Option<String> {
    let escape = file.directives().escape();
    let mut text = if escape == '`' { "# escape=`\n\n".to_owned() } else { "\n".to_owned() };
    let mut write = |comments: &[String], line: &str, instruction: Option<&Instruction>| {
        for comment in comments {
            writeln!(text, "# {comment}").unwrap();
        }
        writeln!(text, "{line}").unwrap();
        if let Some(instruction) = instruction {
            text.extend(heredocs(instruction, line)?);
        }
        is_a_line(line, escape).then_some(())
    };
    for step in file.globals() {
        write(&step.comments, &step.text, None)?;
    }
    for stage in file.stages() {
        write(&stage.comments, &stage.text, None)?;
        for step in &stage.steps {
            write(&step.comments, &step.text, Some(&step.instruction))?;
        }
    }
    Some(text)
}

/// What is below the line of an instruction.
fn heredocs(instruction: &Instruction, line: &str) -> Option<Vec<String>> {
    let whole = |heredoc: &Heredoc, content: bool| {
        let content = if content { &heredoc.content[..] } else { "" };
        format!("{content}{}\n", heredoc.name)
    };
    let sources = match instruction {
        Instruction::Onbuild(trigger) => {
            let below = trigger.text.split_once('\n').map(|(_, below)| format!("{below}\n"));
            return Some(below.into_iter().collect());
        }
        Instruction::Run(run) => return Some(run.heredocs.iter().map(|one| whole(one, true)).collect()),
        Instruction::Add(add) => &add.sources,
        Instruction::Copy(copy) => &copy.sources,
        _ => return Some(Vec::new()),
    };
    let found = sources.iter().filter_map(|source| match source {
        Source::Heredoc(heredoc) => Some(heredoc),
        _ => None,
    });
    let found: Vec<&Heredoc> = found.collect();
    // A word that announces one need not be a source.
    if line.matches("<<").count() != found.len()
        || !found.is_empty() && line.contains(['"', '\'', '\\', '`', '$'])
    {
        return None;
    }
    // Of several with one name the last one counts.
    let last: HashMap<&str, usize> =
        found.iter().enumerate().map(|(at, heredoc)| (&heredoc.name[..], at)).collect();
    Some(
        found.iter().enumerate().map(|(at, heredoc)| whole(heredoc, last[&heredoc.name[..]] == at)).collect(),
    )
}

fn same(file: &Dockerfile, again: &Dockerfile) {
    let steps = |these: &[Step], those: &[Step]| {
        assert_eq!(these.len(), those.len());
        for (this, that) in these.iter().zip(those) {
            assert_eq!(this.instruction, that.instruction);
            assert_eq!((&this.text, &this.keyword), (&that.text, &that.keyword));
            assert_eq!(this.comments, that.comments);
        }
    };
    steps(file.globals(), again.globals());
    assert_eq!(file.stages().len(), again.stages().len());
    for (this, that) in file.stages().iter().zip(again.stages()) {
        assert_eq!((&this.base, &this.name, &this.platform), (&that.base, &that.name, &that.platform));
        assert_eq!((&this.description, &this.comments), (&that.description, &that.comments));
        assert_eq!((&this.text, &this.keyword), (&that.text, &that.keyword));
        steps(&this.steps, &that.steps);
    }
}

/// What is taken from an image is no stage's, by name or number.
fn sources(file: &Dockerfile, at: usize, step: &Step) {
    let held = |name: &str, found: coracle::Result<Base>, numbers: bool| match found {
        Ok(Base::Stage(stage)) => assert!(stage < at),
        Ok(_) => assert!(file.target(name).is_err() || name.is_empty(), "{name:?}"),
        Err(error) => {
            check(&error);
            let is_number = name.bytes().all(|byte| byte.is_ascii_digit() || b"+-".contains(&byte));
            assert!(numbers && is_number || file.target(name).is_ok(), "{error}");
        }
    };
    match &step.instruction {
        Instruction::Copy(copy) => {
            if let Some(name) = &copy.from {
                held(name, file.copy_from(at, step, name), true);
            }
        }
        Instruction::Run(run) => {
            for mount in &run.mounts {
                if let RunMount::Read(mount) = mount
                    && let Some(name) = &mount.from
                {
                    held(name, file.mount_from(at, step, name), false);
                }
            }
        }
        _ => {}
    }
}

/// A text is expanded in each way; and its first line is a pattern for the others, which are a variable's value.
pub fn expansion(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let env = |name: &str| match name {
        "A" => Some("a x*a".to_owned()),
        "B" => Some(String::new()),
        _ => None,
    };
    let nothing = |_: &str| None;
    for escape in ['\\', '`'] {
        for options in 0..16 {
            let is_set = |bit: u8| options >> bit & 1 == 1;
            let expander = Expander::new(escape)
                .raw_quotes(is_set(0))
                .raw_escapes(is_set(1))
                .plain_quotes(is_set(2))
                .keep_unset(is_set(3));
            match (expander.word(text, &env), expander.words(text, &env)) {
                (Ok(word), Ok(words)) => {
                    assert!(word.text.len() <= EXPANDED_MAX + text.len());
                    assert!(word.used.iter().all(|name| env(name).is_some()));
                    assert!(word.unset.iter().all(|name| env(name).is_none()));
                    // A word is never empty, and nothing but white space is lost between two.
                    assert!(words.iter().all(|word| !word.is_empty()));
                    let solid = |text: &str| text.split_whitespace().collect::<String>();
                    assert_eq!(solid(&words.concat()), solid(&word.text));
                }
                (Err(word), Err(words)) => {
                    Lines::new(text).have_place_of(&word);
                    assert_eq!(word.to_string(), words.to_string());
                }
                (word, words) => panic!("{word:?}, but {words:?}"),
            }
            // All that can stay does. In double quotes an escape character that escapes nothing is escaped then, as in BuildKit.
            let stays = is_set(1) && is_set(3) && (is_set(0) && !text.contains(escape) || is_set(2));
            if stays && !text.contains("${") {
                let kept = expander.word(text, &nothing);
                if let Ok(kept) = kept {
                    assert_eq!(kept.text, text);
                }
            }
        }
        escaped(text, escape);
    }
    let (pattern, value) = text.split_once('\n').unwrap_or((text, "a/b.c/d\ne.e"));
    cuts(pattern, value);
    let word = Expander::new('\\').word(text, &env);
    if !text.contains(['$', '\\', '\'', '"']) {
        assert_eq!(word.as_ref().ok().map(|word| word.text.as_str()), Some(text));
    }
    word.is_ok()
}

/// What is quoted, or escaped, is what it was, and one word.
fn escaped(text: &str, escape: char) {
    let expander = Expander::new(escape);
    let each: String = text.chars().flat_map(|c| [escape, c]).collect();
    let mut ways = vec![each];
    if !text.contains('\'') {
        ways.push(format!("'{text}'"));
    }
    let special = |c: &char| matches!(c, '"' | '$') || *c == escape;
    let double: String =
        text.chars().flat_map(|c| Some(escape).filter(|_| special(&c)).into_iter().chain([c])).collect();
    ways.push(format!("\"{double}\""));
    for way in ways {
        let nothing = |name: &str| -> Option<String> { panic!("{name:?} is looked up") };
        assert_eq!(expander.word(&way, &nothing).unwrap().text, text);
        let words = expander.words(&way, &nothing).unwrap();
        assert_eq!(words.concat(), text);
        assert!(words.len() < 2);
    }
}

/// What patterns take away from a value, or replace in it.
fn cuts(pattern: &str, value: &str) {
    let env = |name: &str| Some(if name == "P" { pattern } else { value }.to_owned());
    let expanded = |text: &str| Expander::new('\\').word(text, &env);
    // A sign at its beginning is read as that of the longest match.
    let (short, long) = (["${V#$P}", "${V%$P}"], ["${V##$P}", "${V%%$P}"]);
    let forms = short.into_iter().chain(long).chain(["${V/$P/<>}", "${V//$P/<>}"]);
    for form in forms {
        let sign = if form.contains('#') { '#' } else { '%' };
        let is_cut = !form.contains('/');
        let is_long = long.contains(&form) || is_cut && pattern.starts_with(sign);
        let plain = match pattern.strip_prefix(sign).filter(|_| short.contains(&form)) {
            Some(rest) => rest,
            None => pattern,
        };
        let Some(naive) = naive::Pattern::new(plain) else {
            Lines::new(form).have_place_of(&expanded(form).unwrap_err());
            continue;
        };
        let mut tries = Tries(20_000);
        let expected = match (is_cut, sign) {
            (false, _) => naive.replace(value, "<>", form.contains("//"), &mut tries),
            (true, '#') => naive.without_prefix(value, is_long, &mut tries),
            (true, _) => naive.without_suffix(value, is_long, &mut tries),
        };
        if let Some(expected) = expected {
            assert_eq!(expanded(form).unwrap().text, expected, "{form} {pattern:?} {value:?}");
        }
    }
}

/// Lines of patterns, of which the last is used as a path, too.
pub fn ignore(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let ignore = match Ignore::parse(bytes) {
        Ok(ignore) => ignore,
        Err(error) => {
            Lines::new(&text).have_place_of(&error);
            return false;
        }
    };
    let patterns: Vec<(&str, bool)> = ignore.patterns().collect();
    assert_eq!(ignore.has_exceptions(), patterns.iter().any(|(_, is_exception)| *is_exception));
    // The same patterns again are the same. Cleaning may bring a space to where it would be cut off.
    let lines =
        patterns.iter().map(|(text, is_exception)| format!("{}{text}", if *is_exception { "!" } else { "" }));
    let again = patterns
        .iter()
        .all(|(text, is_exception)| text.trim() == *text && (*is_exception || !text.starts_with('!')));
    let again = again.then(|| Ignore::new(lines).unwrap());
    assert!(again.as_ref().is_none_or(|again| again.patterns().eq(ignore.patterns())));

    let mut paths: Vec<String> = ["a", "a/b", "b/a/x.y", ".a/é"].map(str::to_owned).into();
    paths.extend(text.lines().last().map(str::to_owned));
    for (pattern, _) in patterns.iter().take(4) {
        let likely = pattern.replace("**", "a/b").replace('*', "a").replace(['?', '\\'], "b");
        paths.extend([format!("{likely}/a"), likely]);
    }
    for path in &paths {
        // Paths as a walk has them.
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            continue;
        }
        let (mut parents, mut above) = (Parents::default(), false);
        for (at, _) in path.match_indices('/') {
            (above, parents) = ignore.excludes_below(&path[..at], &parents);
            // What is in a directory that is left out comes back only where that was said.
            if above && !ignore.may_include_below(&path[..at]) {
                assert!(ignore.excludes(path), "{path:?}");
            }
        }
        let excluded = ignore.excludes_below(path, &parents).0;
        assert_eq!(excluded, ignore.excludes(path), "{path:?}");
        assert!(excluded || !above || ignore.has_exceptions());
        if let Some(naive) = naive::excludes(&patterns, path, &mut Tries(20_000)) {
            assert_eq!(excluded, naive, "{path:?}");
        }
    }
    true
}
