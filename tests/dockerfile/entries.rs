//! What the fuzz targets (`fuzz/`) and the tests run on any bytes: nothing may panic, and what is said has to hold.
//! Each says whether the input was a right one.

use coracle::dockerfile::{
    Base, Dockerfile, Expander, Ignore, Instruction, Parents, RunMount, Step, frontend,
};
use coracle::{Error, ErrorKind};

fn check(error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::TooLarge), "{error}");
    assert!(error.to_string().len() < 20_000);
}

/// A Dockerfile is read, and all of it expanded, checked, and asked for its stages.
pub fn dockerfile(bytes: &[u8]) -> bool {
    if let Some(found) = str::from_utf8(bytes).ok().and_then(frontend) {
        assert!(!found.word().is_empty() || found.value.is_empty() || found.value.starts_with(' '));
    }
    let file = match Dockerfile::parse(bytes) {
        Ok(file) => file,
        Err(error) => {
            check(&error);
            let lines = bytes.split(|byte| *byte == b'\n').count();
            assert!(error.position().is_none_or(|(line, column)| (1..=lines).contains(&line) && column > 0));
            return false;
        }
    };
    let mut last = 0;
    let env = |name: &str| (name.len() == 1).then(|| format!("<{name}>"));
    let steps = file.stages().iter().flat_map(|stage| &stage.steps);
    for step in file.globals().iter().chain(steps) {
        assert!(step.span.first <= step.span.last && step.span.column > 0);
        match step.expand(&env) {
            Ok(expanded) => assert_eq!(expanded.instruction.name(), step.instruction.name()),
            Err(error) => {
                check(&error);
                let line = error.position().map_or(0, |(line, _)| line);
                assert!((step.span.first..=step.span.last).contains(&line), "{error}");
            }
        }
        match &step.instruction {
            Instruction::Arg(args) => {
                for default in args.iter().filter_map(|arg| arg.value.as_deref()) {
                    step.expand_default(default, &env).err().iter().for_each(check);
                }
            }
            Instruction::Onbuild(trigger) => {
                Dockerfile::parse_trigger(&trigger.text).err().iter().for_each(check);
            }
            _ => {}
        }
    }
    for (at, stage) in file.stages().iter().enumerate() {
        assert!(last < stage.span.first);
        last = stage.span.last;
        match stage.expand_base(&env) {
            Ok(base) => match file.base(at, &base.text) {
                Ok(Base::Stage(base)) => assert!(base < at),
                Ok(_) => assert!(!base.text.is_empty()),
                Err(error) => check(&error),
            },
            Err(error) => check(&error),
        }
        stage.expand_platform(&env).err().iter().for_each(check);
        if let Some(name) = &stage.name {
            assert!(file.target(name).unwrap() >= at);
        }
        for step in &stage.steps {
            sources(&file, at, step);
        }
    }
    assert_eq!(file.target("").unwrap(), file.stages().len() - 1);
    assert!(file.target("0").is_err());
    match file.check(None, &|base| (base == "a").then(Vec::new)) {
        Ok(warnings) => {
            assert!(warnings.is_sorted_by_key(|one| one.span));
            assert!(warnings.iter().all(|one| !one.message.contains('\0')));
        }
        Err(error) => check(&error),
    }
    true
}

/// What is taken from an image is no stage's, by name or number.
fn sources(file: &Dockerfile, at: usize, step: &Step) {
    let held = |name: &str, found: coracle::Result<Base>, numbers: bool| match found {
        Ok(Base::Stage(stage)) => assert!(stage < at),
        Ok(_) => assert!(file.target(name).is_err() || name.is_empty(), "{name:?}"),
        Err(error) => {
            check(&error);
            assert!(numbers && name.parse::<i128>().is_ok() || file.target(name).is_ok(), "{error}");
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

/// A text is expanded in each way.
pub fn expansion(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let env = |name: &str| match name {
        "A" => Some("a x*a".to_owned()),
        "B" => Some(String::new()),
        _ => None,
    };
    for escape in ['\\', '`'] {
        for options in 0..16 {
            let is_set = |bit: u8| options >> bit & 1 == 1;
            let expander = Expander::new(escape)
                .raw_quotes(is_set(0))
                .raw_escapes(is_set(1))
                .plain_quotes(is_set(2))
                .keep_unset(is_set(3));
            let (word, words) = (expander.word(text, &env), expander.words(text, &env));
            assert_eq!(word.is_ok(), words.is_ok());
            if let Err(error) = &word {
                check(error);
            }
        }
    }
    let word = Expander::new('\\').word(text, &env);
    if !text.contains(['$', '\\', '\'', '"']) {
        assert_eq!(word.as_ref().ok().map(|word| word.text.as_str()), Some(text));
    }
    word.is_ok()
}

/// Lines of patterns, of which the last is used as a path, too.
pub fn ignore(bytes: &[u8]) -> bool {
    let ignore = match Ignore::parse(bytes) {
        Ok(ignore) => ignore,
        Err(error) => {
            check(&error);
            return false;
        }
    };
    let text = String::from_utf8_lossy(bytes);
    let last = text.lines().last().unwrap_or_default();
    for path in [last, "a", "a/b", "b/a/x.y", ".a/é"] {
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
    }
    true
}
