//! Who may do what: passwords as clients send them (RFC 7617), compared so that the time says nothing.
#![forbid(unsafe_code)]

use super::fault::{Fault, code};
use super::request::Head;
use crate::error::{Error, ErrorKind, Result};
use crate::store::random_hex;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use subtle::ConstantTimeEq;

/// What somebody may do with a [`Registry`](crate::Registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Access {
    /// Nothing.
    None,
    /// Pull, and list what there is.
    Read,
    /// Push and delete, too: give and take all names that the registry serves.
    Write,
}

/// More than any client sends.
const PASSWORD_MAX: usize = 4096;
const USERS_MAX: usize = 10_000;
/// Passwords longer than this are cut by bcrypt, which says nothing.
const BCRYPT_MAX: usize = 72;
/// A check takes twice as long with each step: 14 is a second and more.
const COST_MAX: u32 = 14;
/// So many checks may wait for one another: some seconds, with most files.
const WAITING_MAX: usize = 16;

#[derive(Clone)]
enum Proof {
    Password(String),
    /// A hash of bcrypt's.
    Hash(String),
}

/// The users as they were given.
#[derive(Clone, Default)]
pub(super) struct Users {
    known: BTreeMap<String, (Proof, Access)>,
    pub(super) anonymous: Option<Access>,
}

impl Users {
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn add(&mut self, name: &str, password: &str, access: Access) {
        self.known.insert(name.to_owned(), (Proof::Password(password.to_owned()), access));
    }

    /// What `htpasswd -B` writes.
    pub(super) fn add_htpasswd(&mut self, text: &str, access: Access) -> Result<()> {
        for (at, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |why: &str| {
                Error::new(ErrorKind::InvalidData, format!("passwords, line {}: {why}", at + 1))
                    .with_remedy("make the file with htpasswd -B")
            };
            let (name, hash) = line.split_once(':').ok_or_else(|| bad("no colon after the user's name"))?;
            let cost = hash.parse::<bcrypt::HashParts>().map(|parts| parts.get_cost());
            match cost {
                _ if name.is_empty() => return Err(bad("no user's name")),
                Err(_) => return Err(bad("not hashed with bcrypt, which alone is understood")),
                Ok(cost) if cost > COST_MAX => {
                    return Err(bad("a cost of more than 14, with which each check takes seconds"));
                }
                Ok(_) => {}
            }
            if self.known.len() >= USERS_MAX {
                return Err(Error::new(ErrorKind::TooLarge, format!("more than {USERS_MAX} users")));
            }
            self.known.insert(name.to_owned(), (Proof::Hash(hash.to_owned()), access));
        }
        Ok(())
    }
}

impl fmt::Debug for Users {
    /// Names alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.known.iter().map(|(name, (_, access))| (name, access))).finish()
    }
}

/// The users of a registry that runs.
pub(super) struct Door {
    users: Users,
    /// Whoever sends no password.
    anonymous: Access,
    /// All that anybody may.
    most: Access,
    salt: String,
    /// What was found to be right, salted and hashed: a client sends its password with each request. Never held while a hash of
    /// bcrypt's is computed, so that who is known waits for nobody who guesses.
    checked: Mutex<BTreeMap<String, [u8; 32]>>,
    /// One such check at a time, so that who guesses has one processor and not all.
    turn: Mutex<()>,
    /// How many wait for their turn, or have it.
    waiting: AtomicUsize,
    /// Compared with where there is no such user, so that it takes the same time.
    nobody: Option<String>,
}

impl Door {
    pub(super) fn new(users: Users, anonymous: Access, most: Access) -> Result<Self> {
        let hashes = users.known.values().filter_map(|(proof, _)| match proof {
            Proof::Hash(hash) => Some(hash.clone()),
            Proof::Password(_) => None,
        });
        Ok(Self {
            nobody: hashes.max(),
            users,
            anonymous,
            most,
            salt: random_hex(32)?,
            checked: Mutex::default(),
            turn: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    fn digest(&self, name: &str, password: &str) -> [u8; 32] {
        // No user's name has a colon.
        Sha256::digest(format!("{}{name}:{password}", self.salt)).into()
    }

    /// Lets a request in that needs this, or says why not.
    pub(super) fn admit(&self, head: &Head, needed: Access) -> Result<(), Fault> {
        let has = match head.header("authorization") {
            None => self.anonymous,
            Some(text) => match self.access_of(text)? {
                Some(access) => access,
                // Who gives a wrong password is told so, also where none is needed.
                None => return Err(self.refuse()),
            },
        };
        if needed > self.most {
            let fault = Fault::new(405, code::UNSUPPORTED, "this registry is read-only");
            return Err(fault.with("Allow", "GET, HEAD"));
        }
        if has >= needed {
            return Ok(());
        }
        match head.header("authorization") {
            None if !self.users.is_empty() => Err(self.refuse()),
            _ => Err(Fault::new(403, code::DENIED, "that is not allowed")),
        }
    }

    fn refuse(&self) -> Fault {
        let fault = Fault::new(401, code::UNAUTHORIZED, "a user's name and password, please");
        fault.with("WWW-Authenticate", "Basic realm=\"coracle\", charset=\"UTF-8\"")
    }

    /// What the user of an Authorization header may; `None` where it is nobody's.
    fn access_of(&self, header: &str) -> Result<Option<Access>, Fault> {
        let Some(text) = credentials(header) else { return Ok(None) };
        let Some((name, password)) = text.split_once(':') else { return Ok(None) };
        let known = self.users.known.get(name);
        let sent = self.digest(name, password);
        if self.is_checked(name, &sent) {
            return Ok(known.map(|(_, access)| *access));
        }
        let is_right = match known {
            Some((Proof::Password(right), _)) => bool::from(self.digest(name, right).ct_eq(&sent)),
            Some((Proof::Hash(hash), _)) => self.is_hashed(name, password, &sent, hash)?,
            None => {
                if let Some(hash) = &self.nobody {
                    self.is_hashed(name, password, &sent, hash)?;
                }
                false
            }
        };
        if !is_right {
            return Ok(None);
        }
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), sent);
        Ok(known.map(|(_, access)| *access))
    }

    fn is_checked(&self, name: &str, sent: &[u8; 32]) -> bool {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.get(name).is_some_and(|right| bool::from(right.ct_eq(sent)))
    }

    /// Compares with a hash of bcrypt's, when it is its turn.
    fn is_hashed(&self, name: &str, password: &str, sent: &[u8; 32], hash: &str) -> Result<bool, Fault> {
        let waits = Waits::of(&self.waiting)?;
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // The same client may have been let in by another of its connections meanwhile.
        let is_right = self.is_checked(name, sent) || is_hashed(password, hash);
        drop((turn, waits));
        Ok(is_right)
    }
}

/// One of those who wait.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn of(waiting: &'a AtomicUsize) -> Result<Self, Fault> {
        let waits = Self(waiting);
        if waiting.fetch_add(1, Ordering::SeqCst) < WAITING_MAX {
            return Ok(waits);
        }
        let fault = Fault::new(429, code::TOO_MANY, "as many passwords are being checked as may be");
        Err(fault.with("Retry-After", "5"))
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// NAME:PASSWORD of an Authorization header.
fn credentials(header: &str) -> Option<String> {
    let (scheme, credentials) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || credentials.len() > PASSWORD_MAX {
        return None;
    }
    String::from_utf8(BASE64_STANDARD.decode(credentials.trim()).ok()?).ok()
}

fn is_hashed(password: &str, hash: &str) -> bool {
    // As htpasswd hashes it.
    let bytes = &password.as_bytes()[..password.len().min(BCRYPT_MAX)];
    bcrypt::verify(bytes, hash).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `htpasswd -nbB me secret-word`, with the least cost.
    const FILE: &str = "# users\n\nme:$2y$04$";

    fn header(text: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(text))
    }

    /// With the users `me`, whose password is hashed, and `plain`.
    fn door() -> Door {
        let hash = bcrypt::hash_with_salt("secret-word", 4, [7; 16]).unwrap();
        let mut users = Users::default();
        let file = format!("# users\n\nme:{}\n", hash.format_for_version(bcrypt::Version::TwoY));
        users.add_htpasswd(&file, Access::Write).unwrap();
        users.add("plain", "word", Access::Read);
        Door::new(users, Access::None, Access::Write).unwrap()
    }

    #[test]
    fn who_has_the_password_is_let_in() {
        let door = door();
        let access_of = |text: &str| door.access_of(text).unwrap();
        for _ in 0..2 {
            assert_eq!(access_of(&header("me:secret-word")), Some(Access::Write));
            assert_eq!(access_of(&header("plain:word")), Some(Access::Read));
            for wrong in
                ["me:secret", "me:", "plain:word2", "you:secret-word", "me", ":", "plain:secret-word"]
            {
                assert_eq!(access_of(&header(wrong)), None, "{wrong}");
            }
        }
        for wrong in ["Basic", "Basic !!", "Bearer bWU6c2VjcmV0LXdvcmQ=", ""] {
            assert_eq!(access_of(wrong), None, "{wrong}");
        }
        assert_eq!(door.waiting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn who_is_known_waits_for_nobody_who_guesses() {
        let door = door();
        let (known, wrong) = (header("me:secret-word"), header("me:guessed"));
        door.access_of(&known).unwrap();
        // As long as a hash takes, whatever its cost.
        let turn = door.turn.lock().unwrap();
        std::thread::scope(|scope| {
            let guess = || scope.spawn(|| assert_eq!(door.access_of(&wrong).unwrap(), None));
            (0..WAITING_MAX).for_each(|_| drop(guess()));
            while door.waiting.load(Ordering::SeqCst) < WAITING_MAX {
                std::thread::yield_now();
            }
            assert_eq!(door.access_of(&known).unwrap(), Some(Access::Write));
            assert_eq!(door.access_of(&header("plain:word")).unwrap(), Some(Access::Read));
            // And no connection more waits.
            for wrong in [&wrong, &header("nobody:guessed")] {
                assert!(matches!(door.access_of(wrong), Err(Fault::Answer { status: 429, .. })));
            }
            drop(turn);
        });
        assert_eq!(door.access_of(&wrong).unwrap(), None);
    }

    #[test]
    fn a_file_of_passwords_is_read_or_refused_by_line() {
        let add = |text: &str| Users::default().add_htpasswd(text, Access::Read);
        for (text, says) in [
            ("me", "line 1: no colon"),
            ("\nme:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "line 2: not hashed with bcrypt"),
            ("me:plain", "not hashed with bcrypt"),
            (&format!("{FILE}short"), "line 3"),
            (":$2y$05$WZvSGsPgBPHGaA4SVgTsiOWMzhGRfGDNhLs8mHRNcoPSbeEnbFLBS", "no user's name"),
            ("me:$2y$15$WZvSGsPgBPHGaA4SVgTsiOWMzhGRfGDNhLs8mHRNcoPSbeEnbFLBS", "a cost of more than 14"),
        ] {
            let error = add(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains("$2y"), "{error}");
        }
    }
}
