//! Names for containers that were given none: an adjective and a surname, as docker does it.
#![forbid(unsafe_code)]

/// How people who build things well are.
const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "apt", "bold", "brave", "bright", "brisk", "calm", "candid", "careful",
    "cheerful", "clear", "clever", "cosy", "curious", "daring", "deft", "eager", "early", "earnest", "fair",
    "fearless", "fine", "fond", "frank", "free", "fresh", "gentle", "glad", "golden", "grand", "happy",
    "hardy", "honest", "humble", "jolly", "keen", "kind", "light", "lively", "loyal", "lucid", "merry",
    "mild", "modest", "neat", "nimble", "noble", "patient", "plain", "proud", "quick", "quiet", "ready",
    "sharp", "sincere", "smart", "sober", "steady", "sturdy", "tidy", "warm", "wise",
];

/// People whom computing and seafaring owe something.
const SURNAMES: [&str; 64] = [
    "allen",
    "backus",
    "baran",
    "bartik",
    "berners",
    "booth",
    "borg",
    "brooks",
    "cerf",
    "clarke",
    "codd",
    "cook",
    "cray",
    "dahl",
    "diffie",
    "dijkstra",
    "drake",
    "easley",
    "engelbart",
    "estrin",
    "feinler",
    "floyd",
    "goldberg",
    "gosling",
    "hamilton",
    "hamming",
    "hellman",
    "hoare",
    "hopper",
    "huffman",
    "iverson",
    "johnson",
    "kahn",
    "karp",
    "kay",
    "keller",
    "kernighan",
    "knuth",
    "lamport",
    "liskov",
    "lovelace",
    "magellan",
    "mccarthy",
    "mcilroy",
    "milner",
    "moore",
    "nansen",
    "naur",
    "neumann",
    "nygaard",
    "perlman",
    "pike",
    "postel",
    "ritchie",
    "sammet",
    "shannon",
    "shaw",
    "slocum",
    "tarjan",
    "thompson",
    "torvalds",
    "turing",
    "wilkes",
    "wirth",
];

/// The name for an id, whose first digits are random.
pub(crate) fn generated(id: &str) -> String {
    let random = id.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0);
    let adjective = ADJECTIVES[(random % 64) as usize];
    let surname = SURNAMES[(random / 64 % 64) as usize];
    // More containers than names: a number tells them apart.
    match random >> 12 & 0xff {
        n if n < 16 => format!("{adjective}_{surname}"),
        n => format!("{adjective}_{surname}{n}"),
    }
}

/// Whether docker allows the name.
pub(crate) fn is_valid(name: &str) -> bool {
    name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() > 1
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}
