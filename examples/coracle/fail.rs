//! How the program ends when something went wrong: docker's exit codes.
#![forbid(unsafe_code)]

use coracle::{Error, ErrorKind, Problem};
use std::fmt;

/// Of `run`: the error was ours, no command was executed.
pub const OURS: u8 = 125;

/// A message, and the exit code that goes with it where it is not the verb's own.
#[derive(Debug)]
pub struct Fail {
    pub code: Option<u8>,
    pub message: String,
}

pub type Result<T, E = Fail> = std::result::Result<T, E>;

/// The command line can't be right.
pub fn usage(message: impl Into<String>) -> Fail {
    Fail { code: Some(OURS), message: message.into() }
}

/// Anything else.
pub fn fail(message: impl Into<String>) -> Fail {
    Fail { code: None, message: message.into() }
}

/// What was being done, before the error of it.
pub fn context<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Fail {
    move |error| fail(format!("{what}: {error}"))
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        const ENOENT: i32 = 2;
        // A shell's answers: 127 for what is not there, 126 for what can't be executed.
        let code = match (error.kind(), error.raw_os_error()) {
            (ErrorKind::Exec, Some(ENOENT)) => Some(127),
            (ErrorKind::Exec, _) => Some(126),
            _ => None,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<std::io::Error> for Fail {
    fn from(error: std::io::Error) -> Self {
        fail(error.to_string())
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Does the same for each of several names. Each failure is told; the first one's code is the answer.
pub fn each<T>(names: impl IntoIterator<Item = T>, mut work: impl FnMut(T) -> Result<()>) -> Result<u8> {
    let mut code = 0;
    for name in names {
        if let Err(fail) = work(name) {
            eprintln!("coracle: {fail}");
            code = 1;
        }
    }
    Ok(code)
}

/// What a listing has to leave out, and what to do about it.
pub fn warn(problems: Vec<Problem>) {
    for problem in problems {
        eprintln!("coracle: {:?}: {problem}", problem.part());
    }
}
