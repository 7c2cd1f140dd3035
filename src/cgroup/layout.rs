//! Where this process stands in the kernel's control group hierarchies: v1, v2, or both beside each other.
//!
//! The facts come from `/proc/self/cgroup` (which group, cgroups(7)) and `/proc/self/mountinfo` (where its
//! hierarchy is mounted).
#![forbid(unsafe_code)]

use crate::error::{Call, Result};
use crate::sys::mountinfo::{self, Mounted};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// One hierarchy and this process's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// v1: what is mounted together. v2: empty, its files say.
    pub(super) controllers: Vec<String>,
    pub(super) mount: PathBuf,
    /// This process's own group, in or below `mount`.
    pub(super) own: PathBuf,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) v1: Vec<Hierarchy>,
    pub(super) unified: Option<Hierarchy>,
}

impl Layout {
    pub(super) fn detect() -> Result<Self> {
        // Of the thread: with threaded groups, and after a fork elsewhere, /proc/self may speak of another.
        const PATH: &str = "/proc/thread-self/cgroup";
        let cgroup = fs::read_to_string(PATH).call_at("read", PATH)?;
        Ok(Self::parse(&mountinfo::read()?, &cgroup))
    }

    /// A hierarchy that is not mounted, or mounted so that this process's group can't be reached, is left out.
    pub(super) fn parse(mounts: &[Mounted], cgroup: &str) -> Self {
        let mut layout = Self::default();
        for line in cgroup.lines() {
            // hierarchy-ID:controllers:path, where the path may have colons.
            let mut fields = line.splitn(3, ':');
            let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let list: Vec<String> =
                controllers.split(',').filter(|c| !c.is_empty()).map(Into::into).collect();
            let unified = id == "0" && list.is_empty();
            let place = mounts.iter().find_map(|mount| {
                let has = |controller: &String| mount.options.split(',').any(|option| option == controller);
                let same = match unified {
                    true => mount.kind == "cgroup2",
                    false => mount.kind == "cgroup" && list.iter().all(has),
                };
                let own = mount.point.join(inside(path, &mount.root)?);
                same.then(|| Hierarchy { controllers: list.clone(), mount: mount.point.clone(), own })
            });
            match place {
                Some(place) if unified => layout.unified = Some(place),
                // A named hierarchy (name=systemd) controls nothing.
                Some(place) if !controllers.starts_with("name=") => layout.v1.push(place),
                _ => {}
            }
        }
        layout
    }

    /// The v1 hierarchy of a controller.
    pub(super) fn v1_of(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|c| c == controller))
    }
}

/// `path` relative to `root`; both as the cgroup namespace shows them. Above it, with `..`, nothing can be said.
fn inside<'a>(path: &'a str, root: &Path) -> Option<&'a Path> {
    let inner = Path::new(path).strip_prefix(root).ok()?;
    inner.components().all(|part| matches!(part, Component::Normal(_))).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout_of(mountinfo: &str, cgroup: &str) -> Layout {
        Layout::parse(&mountinfo::parse(mountinfo.as_bytes()), cgroup)
    }

    fn v1(controllers: &[&str], mount: &str, own: &str) -> Hierarchy {
        let controllers = controllers.iter().map(|&c| c.into()).collect();
        Hierarchy { controllers, mount: mount.into(), own: own.into() }
    }

    #[test]
    fn hybrid_with_one_mount_for_each_controller() {
        let layout = layout_of(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
             33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
            "9:name=systemd:/\n8:pids:/\n4:memory:/jobs/a:b\n2:cpuacct:/\n1:cpu:/\n0::/\n",
        );
        assert_eq!(layout.unified, Some(v1(&[], "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/")));
        assert_eq!(
            layout.v1_of("memory"),
            Some(&v1(&["memory"], "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/jobs/a:b"))
        );
        assert_eq!(layout.v1_of("cpu").unwrap().controllers, ["cpu"]);
        assert_eq!(layout.v1_of("pids"), None, "known to the kernel, mounted nowhere");
        assert_eq!(layout.v1.len(), 3, "systemd's own hierarchy is none of ours");
    }

    #[test]
    fn v1_with_controllers_mounted_together() {
        let layout = layout_of(
            "30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
             31 24 0:27 / /sys/fs/cgroup/net\\040x rw - cgroup cgroup rw,net_cls,net_prio\n",
            "5:cpu,cpuacct:/user.slice\n3:net_cls,net_prio:/\n",
        );
        assert_eq!(layout.v1_of("cpu"), layout.v1_of("cpuacct"));
        assert_eq!(layout.v1_of("cpu").unwrap().own, Path::new("/sys/fs/cgroup/cpu,cpuacct/user.slice"));
        assert_eq!(layout.v1_of("net_prio").unwrap().mount, Path::new("/sys/fs/cgroup/net x"));
        assert_eq!(layout.unified, None);
    }

    #[test]
    fn v2_on_systemd() {
        let layout = layout_of(
            "29 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec - cgroup2 cgroup2 rw,nsdelegate\n",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n",
        );
        assert!(layout.v1.is_empty());
        assert_eq!(
            layout.unified.unwrap().own,
            Path::new("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope")
        );
    }

    #[test]
    fn inside_a_container() {
        // A bind of the group itself, without a cgroup namespace.
        let mount = "1 0 0:1 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let layout = layout_of(mount, "4:memory:/docker/abc\n");
        assert_eq!(layout.v1_of("memory").unwrap().own, Path::new("/sys/fs/cgroup/memory/"));
        let layout = layout_of(mount, "4:memory:/docker/abcd\n");
        assert_eq!(layout.v1, [], "another group, not below this one");
        // A mount made outside of the cgroup namespace that this process is in.
        let mount = "1 0 0:1 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(layout_of(mount, "0::/\n").unified, None);
        let mount = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(layout_of(mount, "0::/../x\n").unified, None);
        assert!(layout_of(mount, "0::/\n").unified.is_some());
    }

    #[test]
    fn nonsense_is_no_hierarchy() {
        for text in ["", "\n\n", ":", "x", "0::", "1 2 3 - cgroup", "1 0 0:1 / /x rw - cgroup2\n"] {
            assert_eq!(layout_of(text, "0::/\n4:memory:/\n"), Layout::default(), "{text:?}");
        }
    }
}
