//! Seccomp profiles: Docker's JSON form and the OCI runtime specification's, which is its plain half.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use crate::security::capability::{Capabilities, Capability};
use linux_raw_sys::errno::EPERM;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What happens to a system call (seccomp(2), SECCOMP_RET_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    KillProcess,
    KillThread,
    Trap,
    /// Fails with this errno, 0 to 4095.
    Errno(u16),
    /// Given to a tracer with this message.
    Trace(u16),
    Log,
    Allow,
}

impl Action {
    /// The filter's return value (`linux/seccomp.h`).
    pub(super) fn code(self) -> u32 {
        match self {
            Action::KillProcess => 0x8000_0000,
            Action::KillThread => 0x0000_0000,
            Action::Trap => 0x0003_0000,
            Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Action::Trace(message) => 0x7ff0_0000 | u32::from(message),
            Action::Log => 0x7ffc_0000,
            Action::Allow => 0x7fff_0000,
        }
    }

    /// Whether the call goes through, or may.
    pub(super) fn is_permissive(self) -> bool {
        matches!(self, Action::Allow | Action::Log | Action::Trace(_))
    }
}

/// A comparison with one argument, in all 64 bits, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Ne(u64),
    Lt(u64),
    Le(u64),
    Eq(u64),
    Ge(u64),
    Gt(u64),
    /// `argument & mask == value & mask`
    MaskedEq {
        mask: u64,
        value: u64,
    },
}

impl Op {
    /// The value that is compared with; none of a comparison under a mask.
    pub(super) fn compared(self) -> Option<u64> {
        match self {
            Op::Ne(value) | Op::Lt(value) | Op::Le(value) => Some(value),
            Op::Eq(value) | Op::Ge(value) | Op::Gt(value) => Some(value),
            Op::MaskedEq { .. } => None,
        }
    }

    pub(super) fn holds(self, argument: u64) -> bool {
        match self {
            Op::Ne(value) => argument != value,
            Op::Lt(value) => argument < value,
            Op::Le(value) => argument <= value,
            Op::Eq(value) => argument == value,
            Op::Ge(value) => argument >= value,
            Op::Gt(value) => argument > value,
            Op::MaskedEq { mask, value } => argument & mask == value & mask,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) index: u8,
    pub(super) op: Op,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KernelVersion(pub(super) u32, pub(super) u32);

/// When a rule is part of the profile. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// `None` is a name unknown here, which no container holds.
    pub(super) caps: Vec<Option<Capability>>,
    /// Machines by Go's names: amd64, arm64.
    pub(super) arches: Vec<Box<str>>,
    pub(super) min_kernel: Option<KernelVersion>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) names: Vec<Box<str>>,
    pub(super) action: Action,
    pub(super) conditions: Vec<Condition>,
    pub(super) includes: Filter,
    pub(super) excludes: Filter,
}

/// For which kinds of system call the profile speaks, by libseccomp's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arches {
    /// Docker: for each machine, what comes along with it.
    Map(Vec<(Box<str>, Vec<Box<str>>)>),
    /// OCI: these, the machine's own in any case.
    List(Vec<Box<str>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) default: Action,
    pub(super) arches: Arches,
    pub(super) rules: Vec<Rule>,
    /// SECCOMP_FILTER_FLAG_*
    pub(super) flags: u32,
}

/// For whom a profile is evaluated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// By Go's name, as the filters of a profile have it.
    pub(super) machine: &'static str,
    pub(super) caps: Capabilities,
    pub(super) kernel: KernelVersion,
}

impl Rule {
    /// Whether the rule is part of the profile for `target`, by Docker's logic.
    pub(super) fn applies(&self, target: &Target) -> bool {
        let holds = |cap: &Option<Capability>| cap.is_some_and(|cap| target.caps.contains(cap));
        let named = |arches: &[Box<str>]| arches.iter().any(|arch| **arch == *target.machine);
        let (without, with) = (&self.excludes, &self.includes);
        !named(&without.arches)
            && !without.caps.iter().any(holds)
            && without.min_kernel.is_none_or(|kernel| target.kernel < kernel)
            && (with.arches.is_empty() || named(&with.arches))
            && with.caps.iter().all(holds)
            && with.min_kernel.is_none_or(|kernel| target.kernel >= kernel)
    }
}

impl KernelVersion {
    /// `6.18.44-fc` is 6.18.
    pub(super) fn of_release(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

// The JSON. A field that is not known here is refused: a profile of which a part were silently dropped would
// enforce less than it says.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawProfile {
    default_action: String,
    default_errno_ret: Option<u32>,
    /// Podman's name for the number beside it.
    default_errno: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<Box<str>>>,
    #[serde(default)]
    arch_map: Option<Vec<RawArch>>,
    #[serde(default)]
    syscalls: Option<Vec<RawRule>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(rename = "$schema")]
    _schema: Option<IgnoredAny>,
    #[serde(rename = "comment")]
    _comment: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawArch {
    architecture: Box<str>,
    #[serde(default)]
    sub_architectures: Option<Vec<Box<str>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRule {
    #[serde(default)]
    names: Option<Vec<Box<str>>>,
    /// Docker before 17.
    name: Option<Box<str>>,
    action: String,
    errno_ret: Option<u32>,
    errno: Option<String>,
    #[serde(default)]
    args: Option<Vec<RawArg>>,
    #[serde(default)]
    includes: Option<RawFilter>,
    #[serde(default)]
    excludes: Option<RawFilter>,
    #[serde(rename = "comment")]
    _comment: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawArg {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawFilter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<Box<str>>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

fn invalid(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidData, format!("seccomp profile: {what}"))
}

impl Profile {
    /// Reads a profile in Docker's or the OCI runtime specification's form.
    pub(super) fn parse(json: &[u8]) -> Result<Self> {
        let raw: RawProfile = serde_json::from_slice(json).map_err(invalid)?;
        if raw.listener_path.is_some_and(|path| !path.is_empty())
            || raw.listener_metadata.is_some_and(|data| !data.is_empty())
        {
            return Err(unsupported("listenerPath (SCMP_ACT_NOTIFY)"));
        }
        let arches = match (raw.architectures.unwrap_or_default(), raw.arch_map.unwrap_or_default()) {
            (list, map) if map.is_empty() => Arches::List(list),
            (list, map) if list.is_empty() => Arches::Map(
                map.into_iter().map(|a| (a.architecture, a.sub_architectures.unwrap_or_default())).collect(),
            ),
            _ => return Err(invalid("it has both architectures and archMap")),
        };
        let default = action(
            &raw.default_action,
            raw.default_errno_ret,
            raw.default_errno.as_deref(),
            ["defaultAction", "defaultErrnoRet"],
        )?;
        let mut rules = Vec::new();
        for (i, raw) in raw.syscalls.unwrap_or_default().into_iter().enumerate() {
            rule(raw, &format!("syscalls[{i}]"), &mut rules)?;
        }
        let mut flags = 0;
        for flag in raw.flags.unwrap_or_default() {
            flags |= match flag.as_str() {
                // All threads: the filter is loaded where there is one.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                "SECCOMP_FILTER_FLAG_LOG" => 2,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 4,
                other => return Err(unsupported(&format!("flags: {other:?}"))),
            };
        }
        Ok(Self { default, arches, rules, flags })
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("seccomp profile: {what} is not supported"))
}

/// `fields` are the names of the action's and the number's.
fn action(name: &str, number: Option<u32>, errno_name: Option<&str>, fields: [&str; 2]) -> Result<Action> {
    use linux_raw_sys::errno as e;
    let errno = match (number, errno_name) {
        (Some(errno), _) => errno,
        (None, None | Some("")) => EPERM,
        (None, Some(name)) => match name {
            "EPERM" => e::EPERM,
            "ENOSYS" => e::ENOSYS,
            "EACCES" => e::EACCES,
            "EINVAL" => e::EINVAL,
            _ => return Err(invalid(format!("errno {name:?} has no {} beside it", fields[1]))),
        },
    };
    let within = |most: u16| match u16::try_from(errno) {
        Ok(errno) if errno <= most => Ok(errno),
        _ => Err(invalid(format!("{}: {errno} is above {most}", fields[1]))),
    };
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        // MAX_ERRNO: the kernel would cap it.
        "SCMP_ACT_ERRNO" => Action::Errno(within(4095)?),
        "SCMP_ACT_TRACE" => Action::Trace(within(u16::MAX)?),
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_NOTIFY" => return Err(unsupported(&format!("{}: {name}", fields[0]))),
        other => return Err(invalid(format!("{}: {other:?} is not known", fields[0]))),
    })
}

/// One entry of `syscalls`. Conditions on *different* arguments must all hold; where two name the same argument
/// each stands for itself, as runc has it for the sake of old profiles.
fn rule(raw: RawRule, at: &str, rules: &mut Vec<Rule>) -> Result<()> {
    let names = match (raw.names.unwrap_or_default(), raw.name) {
        (names, None) => names,
        (names, Some(name)) if names.is_empty() => vec![name],
        _ => return Err(invalid(format!("{at} has both name and names"))),
    };
    if names.is_empty() {
        return Err(invalid(format!("{at} names no system call")));
    }
    let mut conditions = Vec::new();
    let (mut seen, mut repeated) = (0u8, false);
    for (i, arg) in raw.args.unwrap_or_default().into_iter().enumerate() {
        let index = match u8::try_from(arg.index) {
            Ok(index @ 0..=5) => index,
            _ => {
                return Err(invalid(format!("{at}.args[{i}].index: {} is not one of 0 to 5", arg.index)));
            }
        };
        repeated |= seen & 1 << index != 0;
        seen |= 1 << index;
        let op = match arg.op.as_str() {
            "SCMP_CMP_NE" => Op::Ne(arg.value),
            "SCMP_CMP_LT" => Op::Lt(arg.value),
            "SCMP_CMP_LE" => Op::Le(arg.value),
            "SCMP_CMP_EQ" => Op::Eq(arg.value),
            "SCMP_CMP_GE" => Op::Ge(arg.value),
            "SCMP_CMP_GT" => Op::Gt(arg.value),
            "SCMP_CMP_MASKED_EQ" => Op::MaskedEq { mask: arg.value, value: arg.value_two & arg.value },
            other => return Err(invalid(format!("{at}.args[{i}].op: {other:?} is not known"))),
        };
        conditions.push(Condition { index, op });
    }
    let fields = [format!("{at}.action"), format!("{at}.errnoRet")];
    let action =
        action(&raw.action, raw.errno_ret, raw.errno.as_deref(), fields.each_ref().map(String::as_str))?;
    let includes = filter(raw.includes, &format!("{at}.includes"))?;
    let excludes = filter(raw.excludes, &format!("{at}.excludes"))?;
    let whole = Rule { names, action, conditions, includes, excludes };
    if repeated {
        rules.extend(whole.conditions.iter().map(|one| Rule { conditions: vec![*one], ..whole.clone() }));
    } else {
        rules.push(whole);
    }
    Ok(())
}

fn filter(raw: Option<RawFilter>, at: &str) -> Result<Filter> {
    let raw = raw.unwrap_or_default();
    let min_kernel = match raw.min_kernel.as_deref() {
        None | Some("") => None,
        Some(text) => Some(
            text.split_once('.')
                .and_then(|(major, minor)| Some(KernelVersion(major.parse().ok()?, minor.parse().ok()?)))
                .ok_or_else(|| invalid(format!("{at}.minKernel: {text:?} is not <kernel>.<major>")))?,
        ),
    };
    Ok(Filter {
        caps: raw.caps.unwrap_or_default().iter().map(|cap| cap.parse().ok()).collect(),
        arches: raw.arches.unwrap_or_default(),
        min_kernel,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(json: &str) -> ErrorKind {
        Profile::parse(json.as_bytes()).unwrap_err().kind()
    }

    #[test]
    fn reads_both_forms() {
        let oci = Profile::parse(
            br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],
                "flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC"],
                "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13,
                  "args":[{"index":1,"value":3,"valueTwo":255,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        )
        .unwrap();
        assert_eq!((oci.default, oci.flags), (Action::Allow, 2));
        assert_eq!(oci.rules[0].action, Action::Errno(13));
        assert_eq!(
            oci.rules[0].conditions,
            [Condition { index: 1, op: Op::MaskedEq { mask: 3, value: 3 } }],
            "the value is masked too, as libseccomp does"
        );
        let docker = Profile::parse(
            br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
                "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":null}],
                "syscalls":[{"name":"ptrace","action":"SCMP_ACT_ALLOW","args":null,"comment":"x",
                  "includes":{"minKernel":"4.8","caps":["CAP_SYS_PTRACE"]},"excludes":{"arches":["s390x"]}}]}"#,
        )
        .unwrap();
        assert_eq!(docker.default, Action::Errno(38));
        assert_eq!(docker.rules[0].includes.min_kernel, Some(KernelVersion(4, 8)));
    }

    #[test]
    fn two_conditions_on_one_argument_are_two_rules() {
        let args = |second: u8| {
            Profile::parse(
                format!(
                    r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["socket"],"action":"SCMP_ACT_ALLOW",
                    "args":[{{"index":0,"value":1,"op":"SCMP_CMP_EQ"}},{{"index":{second},"value":2,"op":"SCMP_CMP_EQ"}}]}}]}}"#
                )
                .as_bytes(),
            )
            .unwrap()
            .rules
            .len()
        };
        assert_eq!((args(0), args(1)), (2, 1));
    }

    #[test]
    fn refuses_what_it_could_not_enforce() {
        let rule = |rule: &str| kind(&format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{rule}]}}"#));
        assert_eq!(kind("{"), ErrorKind::InvalidData);
        assert_eq!(kind("{}"), ErrorKind::InvalidData);
        assert_eq!(kind(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#), ErrorKind::Unsupported);
        assert_eq!(kind(r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#), ErrorKind::Unsupported);
        assert_eq!(
            kind(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}"#),
            ErrorKind::Unsupported
        );
        assert_eq!(kind(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscall":[]}"#), ErrorKind::InvalidData);
        assert_eq!(
            kind(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#),
            ErrorKind::InvalidData
        );
        assert_eq!(rule(r#"{"names":["a"],"action":"SCMP_ACT_NOTIFY"}"#), ErrorKind::Unsupported);
        assert_eq!(rule(r#"{"names":["a"],"action":"ALLOW"}"#), ErrorKind::InvalidData);
        assert_eq!(rule(r#"{"names":[],"action":"SCMP_ACT_ALLOW"}"#), ErrorKind::InvalidData);
        assert_eq!(rule(r#"{"names":["a"],"name":"b","action":"SCMP_ACT_ALLOW"}"#), ErrorKind::InvalidData);
        let arg = |arg: &str| rule(&format!(r#"{{"names":["a"],"action":"SCMP_ACT_ALLOW","args":[{arg}]}}"#));
        assert_eq!(arg(r#"{"index":6,"value":0,"op":"SCMP_CMP_EQ"}"#), ErrorKind::InvalidData);
        assert_eq!(arg(r#"{"index":0,"value":-1,"op":"SCMP_CMP_EQ"}"#), ErrorKind::InvalidData);
        assert_eq!(arg(r#"{"index":0,"value":1,"op":"EQ"}"#), ErrorKind::InvalidData);
    }

    #[test]
    fn kernel_releases() {
        assert_eq!(KernelVersion::of_release("6.18.44-fc-v669"), Some(KernelVersion(6, 18)));
        assert_eq!(KernelVersion::of_release("4.8-rc1"), Some(KernelVersion(4, 8)));
        assert_eq!(KernelVersion::of_release("x"), None);
        assert!(KernelVersion(4, 10) > KernelVersion(4, 8));
    }
}
