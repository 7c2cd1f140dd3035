//! `/proc/self/fd/N` as a way through the descriptors of the set-up: layers, control groups, the host's root.
//! A working directory there would be outside of the container's root, and `..` leads up from it (CVE-2024-21626).
use super::*;

/// Numbers that the set-up could still have something open at; it uses less than a hundred, the lowest first.
fn numbers() -> std::ops::Range<u32> {
    0..tries(128)
}

#[test]
fn a_working_directory_that_is_a_descriptor_of_the_set_up() {
    let image = host();
    for init in [false, true] {
        for number in numbers() {
            let builder = sh(&image, "pwd -P; ls").init(init).working_dir(format!("/proc/self/fd/{number}"));
            // Entered at all, it would be something of the host's.
            let error = builder.run().unwrap_err();
            assert!([Some(2), Some(20)].contains(&error.raw_os_error()), "{number}: {error}");
            assert!(error.to_string().contains("working directory"), "{number}: {error}");
        }
    }
}

#[test]
fn a_program_behind_a_descriptor_of_the_set_up() {
    let image = host();
    for number in numbers() {
        let path = format!("/proc/self/fd/{number}/usr/bin/env");
        let error = Container::builder(&image).command([path.as_str()]).run().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exec, "{number}: {error}");
    }
    let dirs: Vec<_> = numbers().map(|number| format!("/proc/self/fd/{number}/usr/bin")).collect();
    let error = Container::builder(&image).command(["env"]).env("PATH", dirs.join(":")).run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exec, "{error}");
}

#[test]
fn the_same_with_a_further_command() {
    let container = ready(&sh(&host(), "echo ready; exec sleep 1000"));
    for number in numbers() {
        let there = format!("/proc/self/fd/{number}");
        let error = container.exec(["ls"]).working_dir(&there).output().unwrap_err();
        assert!([Some(2), Some(20)].contains(&error.raw_os_error()), "{number}: {error}");
        let error = container.exec([format!("{there}/usr/bin/env")]).output().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exec, "{number}: {error}");
    }
}

#[test]
fn a_command_has_stdio_and_nothing_more() {
    // The fourth is the directory that it reads.
    let only = "0\n1\n2\n3";
    let (image, words) = (host(), ["ls", "/proc/self/fd"]);
    assert_eq!(say(&Container::builder(&image).command(words)), only);
    assert_eq!(say(&Container::builder(&image).command(words).init(true)), only);
    let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
    assert_eq!(text(&container.exec(words).output().unwrap().stdout), only);
}

#[test]
fn a_host_command_in_a_containers_mounts() {
    use coracle::{NamespaceKind, Namespaces};
    // Where the caller's working directory leads is the container's to say.
    let container = ready(&sh(&host(), "ln -s /proc/self/fd /tmp/way; echo ready; exec sleep 1000"));
    let kinds = [NamespaceKind::User, NamespaceKind::Mount, NamespaceKind::Pid];
    let namespaces = Namespaces::of(pidfd(container.pid().unwrap()), kinds).unwrap();
    let inside = namespaces.command(["/bin/ls", "/tmp"]).working_dir("/tmp").output().unwrap();
    assert_eq!(text(&inside.stdout), "way");
    for number in numbers() {
        let there = format!("/tmp/way/{number}");
        let error = namespaces.command(["/bin/ls"]).working_dir(&there).output().unwrap_err();
        assert!([Some(2), Some(20)].contains(&error.raw_os_error()), "{number}: {error}");
    }
}
