#![no_main]

#[allow(dead_code)]
#[path = "../../tests/dockerfile/entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    entries::dockerfile(bytes);
});
