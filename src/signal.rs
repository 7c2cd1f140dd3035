//! Signals by signal(7)'s names: those that have one, and the real-time ones, which some programs have as a language of
//! their own (a container of systemd shuts down by `SIGRTMIN+3`).
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind};
use std::fmt;
use std::str::FromStr;

/// SIGRTMIN as C libraries and docker count: glibc keeps two of the kernel's for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;
/// So far names go from either end: every number has one name.
const NAMED_UP: i32 = 15;
const NAMED_DOWN: i32 = RTMAX - RTMIN - NAMED_UP - 1;

/// A signal. Its name is read with `SIG` or without, in any case, and so is its number; it is written with `SIG`.
///
/// ```
/// use coracle::Signal;
/// assert_eq!("term".parse::<Signal>()?, Signal::SIGTERM);
/// assert_eq!("9".parse::<Signal>()?, Signal::SIGKILL);
/// let halt: Signal = "SIGRTMIN+3".parse()?;
/// assert_eq!((halt.number(), halt.to_string()), (37, "SIGRTMIN+3".to_owned()));
/// assert!("SIGNONE".parse::<Signal>().is_err());
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

macro_rules! signals {
    ($($name:ident),* $(,)?) => {
        #[allow(missing_docs)] // signal(7) has them
        impl Signal {
            $(pub const $name: Self = Self(nix::libc::$name);)*
        }

        const NAMED: &[(&str, Signal)] = &[$((stringify!($name), Signal::$name)),*];
    };
}

signals! {
    SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2, SIGPIPE, SIGALRM,
    SIGTERM, SIGSTKFLT, SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF,
    SIGWINCH, SIGIO, SIGPWR, SIGSYS,
}

impl Signal {
    /// Its number on this machine.
    pub const fn number(self) -> i32 {
        self.0
    }
}

fn unknown(text: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("no signal is called {text:?}", text = text.to_string()))
        .with_remedy("a name of signal(7), SIGRTMIN+N, SIGRTMAX-N, or a number from 1 to 64")
}

impl TryFrom<i32> for Signal {
    type Error = Error;

    /// # Errors
    /// `InvalidInput` for what is no number of a signal.
    fn try_from(number: i32) -> Result<Self, Error> {
        let is_known = (RTMIN..=RTMAX).contains(&number) || NAMED.iter().any(|(_, known)| known.0 == number);
        if is_known { Ok(Self(number)) } else { Err(unknown(number)) }
    }
}

impl FromStr for Signal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && let Ok(number) = text.parse::<i32>() {
            return Self::try_from(number).map_err(|_| unknown(text));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        // How far from its end of the row.
        let away = |rest: &str, sign: char, most: i32| match rest.strip_prefix(sign) {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse::<i32>().ok().filter(|away| (1..=most).contains(away))
            }
            _ => rest.is_empty().then_some(0),
        };
        let found = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(rest), _) => away(rest, '+', NAMED_UP).map(|away| Self(RTMIN + away)),
            (_, Some(rest)) => away(rest, '-', NAMED_DOWN).map(|away| Self(RTMAX - away)),
            _ => {
                // As other systems call them, or did.
                let name = match name {
                    "CLD" => "CHLD",
                    "IOT" => "ABRT",
                    "POLL" => "IO",
                    name => name,
                };
                NAMED.iter().find(|(known, _)| known[3..] == *name).map(|(_, signal)| *signal)
            }
        };
        found.ok_or_else(|| unknown(text))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMED.iter().find(|(_, signal)| signal == self) {
            return f.write_str(name);
        }
        match self.0 - RTMIN {
            0 => f.write_str("SIGRTMIN"),
            away if away <= NAMED_UP => write!(f, "SIGRTMIN+{away}"),
            _ if self.0 == RTMAX => f.write_str("SIGRTMAX"),
            _ => write!(f, "SIGRTMAX-{}", RTMAX - self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_read_as_it_is_written() {
        let mut count = 0;
        for number in -1..70 {
            let Ok(signal) = Signal::try_from(number) else { continue };
            count += 1;
            let text = signal.to_string();
            assert_eq!((signal.number(), text.parse::<Signal>().unwrap()), (number, signal), "{text}");
            assert_eq!(text[3..].to_lowercase().parse::<Signal>().unwrap(), signal);
            assert_eq!(number.to_string().parse::<Signal>().unwrap(), signal);
        }
        assert_eq!(count, 31 + 31);
    }

    #[test]
    fn real_time_signals_are_counted_from_both_ends() {
        for (text, number) in
            [("SIGRTMIN", 34), ("rtmin+3", 37), ("SIGRTMIN+15", 49), ("RTMAX-14", 50), ("SIGRTMAX", 64)]
        {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
    }

    #[test]
    fn what_docker_reads_under_a_second_name() {
        for (text, signal) in
            [("SIGCLD", Signal::SIGCHLD), ("iot", Signal::SIGABRT), ("SIGPOLL", Signal::SIGIO)]
        {
            assert_eq!(text.parse::<Signal>().unwrap(), signal, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "0",
            "32",
            "33",
            "65",
            "-1",
            "+9",
            "SIG",
            "SIGNO",
            "SIGRTMIN+16",
            "SIGRTMIN+0",
            "SIGRTMIN-1",
            "SIGRTMIN+",
            "SIGRTMIN++1",
            "RTMAX+1",
            "RTMAX-15",
            "99999999999",
        ] {
            let error = text.parse::<Signal>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
