//! `RUN --mount` ("RUN --mount" of the Dockerfile reference).
#![forbid(unsafe_code)]

use super::place::{Fault, Found, nearest};
use super::syntax::shortened;
use super::values::{boolean, fields, size};

/// A mount of RUN. One with variables is only known when they are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunMount {
    /// As it is written, after `--mount=`: it has variables or quotes.
    Written(String),
    /// What it is.
    Read(Mount),
}

/// What kind of mount it is: `type=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MountKind {
    /// Files of the context, of a stage or an image; what is written to them is dropped.
    #[default]
    Bind,
    /// A directory that stays from build to build.
    Cache,
    /// A filesystem in memory.
    Tmpfs,
    /// A file, or a variable, that no layer has.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

/// Who may have a cache at the same time: `sharing=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// Each an own one.
    Private,
    /// One after the other.
    Locked,
}

/// A mount of RUN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Mount {
    /// `type=`.
    pub kind: MountKind,
    /// `from=`: a stage, a named context or an image.
    pub from: Option<String>,
    /// `source=`, `src=`: a path in it; of a secret, its name.
    pub source: Option<String>,
    /// `target=`, `dst=`, `destination=`: where it is in the container.
    pub target: Option<String>,
    /// `readonly`, `ro`, or not `readwrite`, `rw`; caches and tmpfs are not by default, all else is.
    pub read_only: bool,
    /// `size=` of a tmpfs, in bytes.
    pub size: Option<u64>,
    /// `id=`: of a cache, a secret or an agent.
    pub id: Option<String>,
    /// `sharing=` of a cache.
    pub sharing: Option<Sharing>,
    /// `required`: whether to go on without the secret or the agent is an error.
    pub required: bool,
    /// `env=` of a secret: the variable's name, empty for the secret's own.
    pub env: Option<String>,
    /// `mode=`, written in octal.
    pub mode: Option<u32>,
    /// `uid=`.
    pub uid: Option<u32>,
    /// `gid=`.
    pub gid: Option<u32>,
}

const KINDS: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];
const SHARINGS: [(&str, Sharing); 3] =
    [("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "size",
    "id",
    "sharing",
    "required",
    "env",
    "mode",
    "uid",
    "gid",
];

impl RunMount {
    /// A flag's value, as far as it is known without variables.
    pub(super) fn parse(text: &str, escape: char) -> Found<Self> {
        let fields = split(text)?;
        let is_plain = |field: &String| !field.contains(['$', '\'', '"', escape]);
        if fields.iter().all(is_plain) {
            return Mount::parse(&fields, &mut |value| Ok(value.to_owned())).map(Self::Read);
        }
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else { continue };
            if key.eq_ignore_ascii_case("from") && value.find('$').is_some_and(|at| at + 1 < value.len()) {
                let remedy = "give the image a stage of its own: FROM $IMAGE AS name, and from=name here";
                return Err(fault("from= can't have variables").with_remedy(remedy));
            }
        }
        Ok(Self::Written(text.to_owned()))
    }

    /// With the values replaced.
    pub(super) fn expand(&self, replace: &mut dyn FnMut(&str) -> Found<String>) -> Found<Mount> {
        match self {
            Self::Read(mount) => Ok(mount.clone()),
            Self::Written(text) => Mount::parse(&split(text)?, replace),
        }
    }
}

fn split(text: &str) -> Found<Vec<String>> {
    fields(text).ok_or_else(|| fault("in --mount a field is quoted as a whole, or not at all"))
}

fn fault(message: impl Into<String>) -> Fault {
    Fault::new(0..0, message)
}

fn one_of<T: std::marker::Copy>(known: &[(&str, T)], what: &str, value: &str) -> Found<T> {
    let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names = known.iter().map(|(name, _)| *name);
        let all: Vec<_> = names.clone().collect();
        let fault = fault(format!("{} is no {what} of a mount", shortened(value)));
        match nearest(value, names) {
            Some(near) => fault.with_remedy(format!("did you mean {near}?")),
            None => fault.with_remedy(format!("there are {}", all.join(", "))),
        }
    })
}

impl Mount {
    fn parse(fields: &[String], replace: &mut dyn FnMut(&str) -> Found<String>) -> Found<Self> {
        let (mut mount, mut read_only) = (Self::default(), None);
        for field in fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_ascii_lowercase(), Some(replace(value)?)),
                None => (field.to_ascii_lowercase(), None),
            };
            let is_hidden = matches!(mount.kind, MountKind::Secret | MountKind::Ssh);
            let wrong = |value: &str| fault(format!("{} is no value of {key}", shortened(value)));
            let flag = |value: &Option<String>| match value {
                Some(value) => boolean(value).ok_or_else(|| wrong(value).with_remedy("true or false")),
                None => Ok(true),
            };
            match (key.as_str(), value) {
                ("readonly" | "ro", value) => read_only = Some(flag(&value)?),
                ("readwrite" | "rw", value) => read_only = Some(!flag(&value)?),
                ("required", value) if is_hidden => mount.required = flag(&value)?,
                ("required", _) => return Err(fault("only secrets and ssh agents can be required")),
                (key, None) if KEYS.contains(&key) => {
                    return Err(fault(format!("{key} needs a value")).with_remedy(format!("{key}=…")));
                }
                ("type", Some(value)) => mount.kind = one_of(&KINDS, "type", &value)?,
                ("from", Some(value)) => mount.from = Some(value),
                ("source" | "src", Some(value)) => mount.source = Some(value),
                ("target" | "dst" | "destination", Some(value)) => mount.target = Some(value),
                ("size", Some(_)) if mount.kind != MountKind::Tmpfs => {
                    return Err(fault("only a tmpfs has a size").with_remedy("put type=tmpfs before it"));
                }
                ("size", Some(value)) => mount.size = Some(size(&value).ok_or_else(|| wrong(&value))?),
                ("id", Some(value)) => mount.id = Some(value),
                ("sharing", Some(value)) => mount.sharing = Some(one_of(&SHARINGS, "sharing", &value)?),
                ("mode", Some(value)) => {
                    let mode = u32::from_str_radix(&value, 8).map_err(|_| wrong(&value))?;
                    mount.mode = Some(mode);
                }
                ("uid", Some(value)) => mount.uid = Some(value.parse().map_err(|_| wrong(&value))?),
                ("gid", Some(value)) => mount.gid = Some(value.parse().map_err(|_| wrong(&value))?),
                ("env", Some(value)) => mount.env = Some(value),
                (other, _) => {
                    let fault = fault(format!("{} is nothing that a mount has", shortened(other)));
                    return Err(match nearest(other, KEYS.into_iter()) {
                        Some(near) => fault.with_remedy(format!("did you mean {near}?")),
                        None => fault.with_remedy(format!("there are {}", KEYS.join(", "))),
                    });
                }
            }
        }
        mount.read_only = read_only.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
        mount.check()?;
        Ok(mount)
    }

    fn check(&self) -> Found<()> {
        let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let is_owned = matches!(self.kind, MountKind::Secret | MountKind::Ssh | MountKind::Cache);
        if !is_owned && (self.mode.is_some() || self.uid.is_some() || self.gid.is_some()) {
            return Err(fault("mode, uid and gid are of caches, secrets and ssh agents"));
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            return Err(fault("only a cache has a sharing"));
        }
        if self.kind != MountKind::Secret {
            return Ok(());
        }
        if given(&self.from) {
            return Err(fault("a secret is not from a stage"));
        }
        if !given(&self.source) && !given(&self.target) && !given(&self.id) {
            return Err(
                fault("a secret needs a name").with_remedy("id=NAME, as in --secret id=NAME of the build")
            );
        }
        if given(&self.source) && given(&self.id) {
            return Err(fault("a secret's name is given twice, as source and as id"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Mount {
        match RunMount::parse(text, '\\').unwrap() {
            RunMount::Read(mount) => mount,
            written => panic!("{written:?}"),
        }
    }

    fn why(text: &str) -> String {
        RunMount::parse(text, '\\').unwrap_err().message().to_owned()
    }

    #[test]
    fn each_type_has_what_it_has() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            read("from=base,src=/a,TARGET=/b"),
            Mount {
                from: some("base"),
                source: some("/a"),
                target: some("/b"),
                read_only: true,
                ..Mount::default()
            }
        );
        assert_eq!(
            read("type=cache,id=apt,dst=/c,sharing=Locked,mode=0755,uid=1,gid=2,ro"),
            Mount {
                kind: MountKind::Cache,
                id: some("apt"),
                target: some("/c"),
                sharing: Some(Sharing::Locked),
                mode: Some(0o755),
                uid: Some(1),
                gid: Some(2),
                read_only: true,
                ..Mount::default()
            }
        );
        assert!(!read("type=cache,target=/c").read_only);
        assert_eq!(read("type=tmpfs,destination=/t,size=1.5m").size, Some(3 << 19));
        assert!(!read("type=bind,target=/x,rw").read_only && read("target=/x,rw=false").read_only);
        let secret = read("type=secret,id=k,required,env=KEY,mode=0400");
        assert!(secret.required && secret.env == some("KEY") && secret.mode == Some(0o400));
        assert!(read("type=ssh,required=true").required);
        assert_eq!(read("\"target=/with,comma\"").target, some("/with,comma"));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (text, part) in [
            ("type=cahce", "\"cahce\" is no type"),
            ("type=cache,sharing=all", "no sharing"),
            ("type=bind,sharing=shared", "only a cache"),
            ("type=bind,required", "only secrets"),
            ("size=1m,type=tmpfs", "only a tmpfs"),
            ("type=tmpfs,size=big", "no value of size"),
            ("type=bind,mode=7", "mode, uid and gid"),
            ("type=cache,mode=9", "no value of mode"),
            ("type=cache,uid=-1", "no value of uid"),
            ("type=secret", "needs a name"),
            ("type=secret,src=a,id=b", "twice"),
            ("type=secret,id=a,from=b", "not from a stage"),
            ("target", "needs a value"),
            ("traget=/x", "\"traget\" is nothing"),
            ("ro=maybe", "no value of ro"),
            ("from=$X,target=/a", "can't have variables"),
            ("a\"b", "quoted as a whole"),
        ] {
            assert!(why(text).contains(part), "{text}: {}", why(text));
        }
    }

    #[test]
    fn what_has_variables_is_read_when_they_are_replaced() {
        let mount = RunMount::parse("type=cache,target=$HOME/.cache", '\\').unwrap();
        assert!(matches!(mount, RunMount::Written(_)));
        let read = mount.expand(&mut |value| Ok(value.replace("$HOME", "/a,ro"))).unwrap();
        // What a variable has is one value, whatever is in it.
        assert_eq!((read.target.as_deref(), read.read_only), (Some("/a,ro/.cache"), false));
        let wrong = RunMount::parse("type=$KIND,target=/x", '\\').unwrap();
        assert!(wrong.expand(&mut |value| Ok(value.replace("$KIND", "no"))).is_err());
    }
}
