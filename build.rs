//! Compiles the warden (`warden/`), the small freestanding program that starts containers, with the same rustc.
//! It is no cargo package, so that `cargo package` carries it; it depends on nothing but `core`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=warden");
    println!("cargo::rerun-if-env-changed=CORACLE_WARDEN_LINKER");
    let var = |name: &str| env::var(name).unwrap_or_default();
    if var("CARGO_CFG_TARGET_OS") != "linux" {
        // Said here, it is the one error: from the library's own compile_error! it would be followed by hundreds about what
        // std and the dependencies don't have there.
        println!(
            "cargo::error=coracle needs Linux: its containers are made of Linux namespaces, control groups and overlay mounts"
        );
        return;
    }
    let arch = var("CARGO_CFG_TARGET_ARCH");
    if arch != "x86_64" && arch != "aarch64" {
        panic!("coracle's warden is written for x86_64 and aarch64, not for {arch}");
    }
    let target = var("TARGET");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("warden");
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    rustc
        .args(["--edition", "2024", "--crate-name", "warden", "--target", &target, "-o"])
        .arg(&out)
        // A fixed level: others want an unwinder's symbols, or grow calls to memory functions.
        .args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols", "-C", "codegen-units=1"])
        .args(["-C", "relocation-model=static", "-C", "force-unwind-tables=no"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"]);
    if arch == "aarch64" {
        rustc.args(["-C", "target-feature=-outline-atomics"]);
    }
    if target.contains("musl") {
        rustc.args(["-C", "link-self-contained=no"]);
    }
    match env::var_os("CORACLE_WARDEN_LINKER") {
        Some(linker) => drop(rustc.arg("-C").arg({
            let mut arg = std::ffi::OsString::from("linker=");
            arg.push(linker);
            arg
        })),
        // A foreign cc can't link for another machine; rustc brings a linker that can.
        None if var("HOST") != target => {
            rustc.args(["-C", "linker=rust-lld", "-C", "linker-flavor=ld.lld"]);
        }
        None => {}
    }
    // The flags of the embedding program (sanitizers, link arguments, …) are not meant for this one.
    rustc.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTC_WRAPPER");
    let status =
        rustc.arg("warden/main.rs").status().expect("rustc, which compiles this crate, can't be started");
    assert!(status.success(), "the warden does not compile: {rustc:?}");
}
