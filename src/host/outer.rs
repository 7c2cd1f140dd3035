//! Which container this program is in. That its namespaces are not the machine's first ones tells that there is something;
//! each engine leaves a mark of its own besides. Marks alone prove nothing: disk images of machines are made from those of
//! containers.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

/// The inodes of the first namespaces, linux/proc_ns.h.
const FIRST: [(&str, u64); 5] = [
    ("cgroup", 0xEFFF_FFFB),
    ("ipc", 0xEFFF_FFFF),
    ("pid", 0xEFFF_FFFC),
    ("user", 0xEFFF_FFFD),
    ("uts", 0xEFFF_FFFE),
];

pub(super) fn container() -> Option<String> {
    let is_first = |(kind, inode): (&str, u64)| {
        let link = fs::read_link(format!("/proc/thread-self/ns/{kind}"));
        // A kernel without it has only one.
        link.map_or(true, |link| link.to_str() == Some(&*format!("{kind}:[{inode}]")))
    };
    let own: Vec<_> = FIRST.into_iter().filter(|one| !is_first(*one)).map(|(kind, _)| kind).collect();
    if own.is_empty() {
        return None;
    }
    let mark = find(Path::new("/"), |name| std::env::var_os(name).is_some());
    mark.or_else(|| Some(format!("namespaces: {}", own.join(", "))))
}

/// By files below `root` and variables of the environment, most telling first.
fn find(root: &Path, has: impl Fn(&str) -> bool) -> Option<String> {
    let read = |path: &str| fs::read(root.join(path)).ok();
    let there = |path: &str| root.join(path).exists();
    if has("KUBERNETES_SERVICE_HOST")
        || there("run/secrets/kubernetes.io")
        || there("var/run/secrets/kubernetes.io")
    {
        return Some("kubernetes".into());
    }
    // systemd's convention (CONTAINER_INTERFACE): only root may read the first process's environment.
    let named = read("run/host/container-manager").or_else(|| read("run/systemd/container")).or_else(|| {
        let environ = read("proc/1/environ")?;
        let value = environ.split(|byte| *byte == 0).find_map(|one| one.strip_prefix(b"container="))?;
        Some(value.to_owned())
    });
    let named = named.map(|name| String::from_utf8_lossy(&name).trim().to_owned());
    // Names from outside are printed: only such as an engine would have.
    let sane = |name: &String| {
        !name.is_empty() && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if let Some(name) = named.filter(sane) {
        return Some(if name == "oci" { "an OCI runtime".into() } else { name });
    }
    let marks = [
        ("run/.containerenv", "podman"),
        (".dockerenv", "docker"),
        ("dev/lxd/sock", "lxc"),
        ("dev/.lxc-boot-id", "lxc"),
        (".flatpak-info", "flatpak"),
    ];
    marks.into_iter().find(|(path, _)| there(path)).map(|(_, name)| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_engines() {
        let found = |file: &str, text: &str, variable: &str| {
            let root = tempfile::tempdir().unwrap();
            if !file.is_empty() {
                fs::create_dir_all(root.path().join(file).parent().unwrap()).unwrap();
                fs::write(root.path().join(file), text).unwrap();
            }
            find(root.path(), |name| name == variable)
        };
        assert_eq!(found("", "", ""), None);
        assert_eq!(found(".dockerenv", "", "").as_deref(), Some("docker"));
        assert_eq!(found(".dockerenv", "", "KUBERNETES_SERVICE_HOST").as_deref(), Some("kubernetes"));
        assert_eq!(found("run/.containerenv", "engine=\"podman\"", "").as_deref(), Some("podman"));
        assert_eq!(found("run/systemd/container", "systemd-nspawn\n", "").as_deref(), Some("systemd-nspawn"));
        assert_eq!(found("proc/1/environ", "A=b\0container=lxc\0", "").as_deref(), Some("lxc"));
        assert_eq!(found("proc/1/environ", "A=b\0container=\x1b[31m\0", ""), None);
        assert_eq!(found("proc/1/environ", "notcontainer=lxc\0", ""), None);
    }
}
