//! `login` and `logout`.
//!
//! A password comes from the terminal or from stdin. There is no flag for it: arguments can be read by every user of the machine.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::fail::Result;
use crate::pull;
use coracle::Store;

pub const LOGIN: &[Flag] = &[
    switch("password-stdin", "Take the password from stdin"),
    flag("username", "NAME", "The name to log in with").short('u'),
];

pub fn login(_: &Store, args: &Args) -> Result<u8> {
    ours::login(args)
}

pub fn logout(_: &Store, args: &Args) -> Result<u8> {
    ours::logout(args)
}

/// docker's own, where none is named.
fn server(args: &Args) -> Result<&str> {
    Ok(args.names()?.first().copied().unwrap_or("docker.io"))
}

#[cfg(not(feature = "registry"))]
mod ours {
    use super::*;

    pub fn login(args: &Args) -> Result<u8> {
        Err(pull::not_there(server(args)?))
    }

    pub fn logout(args: &Args) -> Result<u8> {
        login(args)
    }
}

#[cfg(feature = "registry")]
mod ours {
    use super::*;
    use crate::fail::{Fail, context, fail};
    use crate::format::line;
    use coracle::{Credentials, CredentialsPlace, RegistryClient};
    use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
    use std::io::{self, BufRead, IsTerminal, Read};

    /// More is a file that was not meant.
    const PASSWORD_MAX: u64 = 1 << 20;
    /// A shell's, for SIGINT.
    const INTERRUPTED: u8 = 130;

    pub fn login(args: &Args) -> Result<u8> {
        let registry = pull::client(args, server(args)?)?;
        let name = args.get("username")?;
        let credentials = if args.has("password-stdin") {
            let name = name.filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| fail("Must provide --username with --password-stdin"))?;
            Credentials::basic(name, from_stdin()?)
        } else {
            // Who is known already needs no password, as with docker.
            if name.is_none()
                && let Some(known) = registry.logged_in()?
            {
                eprintln!("Authenticating with existing credentials...");
                match registry.login(&known) {
                    Ok(place) => return succeeded(&place),
                    Err(error) if error.kind() == coracle::ErrorKind::PermissionDenied => {
                        eprintln!("coracle: {error}");
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            asked(name)?
        };
        succeeded(&registry.login(&credentials)?)
    }

    fn succeeded(place: &CredentialsPlace) -> Result<u8> {
        if let CredentialsPlace::File(path) = place {
            eprintln!("WARNING! Your credentials are stored unencrypted in '{}'.", path.display());
            eprintln!("Configure a credential helper there (\"credsStore\") to have them kept elsewhere.");
        }
        line("Login Succeeded")?;
        Ok(0)
    }

    fn from_stdin() -> Result<String> {
        let mut text = String::new();
        io::stdin().take(PASSWORD_MAX).read_to_string(&mut text).map_err(context("--password-stdin"))?;
        // One end of line is the shell's.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
    }

    /// A name and a password from whoever sits at the terminal.
    fn asked(name: Option<&str>) -> Result<Credentials> {
        if !io::stdin().is_terminal() {
            return Err(fail("Cannot perform an interactive login from a non TTY device: --password-stdin"));
        }
        let name = match name {
            Some(name) => name.to_owned(),
            None => ask("Username")?,
        };
        let hidden = Hidden::begin()?;
        let password = ask("Password");
        drop(hidden);
        eprintln!();
        Ok(Credentials::basic(name, password?))
    }

    const CTRL_C: u8 = 3;

    /// What is typed up to the end of the line, or to what a terminal with nothing shown has for its end.
    fn ask(what: &str) -> Result<String> {
        eprint!("{what}: ");
        let mut input = io::stdin().lock();
        // A terminal gives a line at a time.
        let typed = input.fill_buf().map_err(context("reading from the terminal"))?.to_owned();
        let end = typed.iter().position(|byte| *byte == b'\n').map_or(typed.len(), |at| at + 1);
        input.consume(end);
        if typed[..end].contains(&CTRL_C) {
            return Err(Fail { code: Some(INTERRUPTED), ..fail("interrupted") });
        }
        let typed = std::str::from_utf8(&typed[..end]).map_err(|_| fail(format!("{what}: not UTF-8")))?;
        match typed.trim_end_matches(['\n', '\r']) {
            "" => Err(fail(format!("{what} required"))),
            typed => Ok(typed.to_owned()),
        }
    }

    /// The terminal does not show what is typed, until this goes. Its keys send no signals meanwhile, which would end this
    /// program and leave the terminal as it is: Ctrl-C ends the line.
    struct Hidden(Termios);

    impl Hidden {
        fn begin() -> Result<Self> {
            let old = tcgetattr(io::stdin()).map_err(context("tcgetattr"))?;
            let mut hidden = old.clone();
            hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
            hidden.special_codes[SpecialCodeIndex::VEOL] = CTRL_C;
            tcsetattr(io::stdin(), OptionalActions::Flush, &hidden).map_err(context("tcsetattr"))?;
            Ok(Self(old))
        }
    }

    impl Drop for Hidden {
        fn drop(&mut self) {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        }
    }

    pub fn logout(args: &Args) -> Result<u8> {
        let registry = RegistryClient::new(server(args)?)?;
        match registry.logout()? {
            true => line(format!("Removing login credentials for {}", registry.host()))?,
            false => line(format!("Not logged in to {}", registry.host()))?,
        }
        Ok(0)
    }
}
