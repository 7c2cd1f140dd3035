//! What the fuzz targets do, with the same random inputs each time: pieces of the language in any order, and bytes of none.

#[path = "dockerfile/entries.rs"]
mod entries;

/// A generator of numbers; the same for the same seed (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn text(&mut self, pieces: &[&str]) -> Vec<u8> {
        let mut text = Vec::new();
        for _ in 0..self.below(24) {
            match self.below(100) {
                0 => text.push(self.below(256) as u8),
                _ => text.extend(pieces[self.below(pieces.len())].bytes()),
            }
        }
        text
    }
}

const FILE: &[&str] = &[
    "FROM a\n",
    "FROM ",
    "AS b\n",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "ONBUILD ",
    "HEALTHCHECK CMD ",
    "SHELL ",
    "EXPOSE 80\n",
    "VOLUME ",
    "USER ",
    "# escape=`\n",
    "# x\n",
    "\\\n",
    "`\n",
    "\n",
    "\r\n",
    " ",
    "\t",
    "<<E",
    "<<-'E'",
    "E\n",
    "RUN <<E cat\nx $A\nE\n",
    "COPY <<-E <<F <<E /\n\t$A\n\tE\ny\nF\nz\nE\n",
    "[\"a\", \"b\"]",
    "[",
    "{}]",
    "--mount=type=cache,target=/x ",
    "--from=",
    "--from=0 ",
    "--from=b ",
    "--mount=from=b ",
    "WORKDIR ",
    "--link ",
    "--",
    "=",
    "$A",
    "${A:-b}",
    "\"",
    "'",
    "\\",
    "é",
    "안",
    "\u{feff}",
    "a",
    "b c",
    "\0",
];
const WORDS: &[&str] = &[
    "$",
    "${",
    "}",
    "A",
    "B",
    ":",
    "-",
    "+",
    "?",
    "#",
    "##",
    "%",
    "%%",
    "/",
    "//",
    "*",
    "\\",
    "`",
    "'",
    "\"",
    "<<",
    " ",
    "\t",
    "안녕",
    "é",
    "\n",
    "x",
    "${A#*}",
    "${B//x/y}",
    "1",
    "@",
];
const GLOBS: &[&str] = &[
    "*",
    "**",
    "**/",
    "/",
    "?",
    "[",
    "]",
    "[a-z]",
    "[^b]",
    "-",
    "!",
    "\\",
    "a",
    "b",
    ".",
    "..",
    "#",
    "\n",
    "\r\n",
    " ",
    "é",
    "[[:alpha:]]",
    "a/b",
    "x.y",
    "$",
    "^",
    "(",
    ")",
];

/// Whole lines of a `.dockerignore`, as each has a say after those before it.
const LINES: &[&str] = &[
    "a\n", "!a\n", "b\n", "a/b\n", "!a/b\n", "a/*\n", "!**/b\n", "**\n", "*\n", "!b/a\n", "**/x.y\n",
    "!*/a\n",
];

#[test]
fn no_dockerfile_panics_and_every_place_exists() {
    let mut numbers = Numbers(1);
    let mut good = 0;
    for _ in 0..20_000 {
        let mut text = numbers.text(FILE);
        if numbers.below(2) == 0 {
            text.splice(0..0, *b"FROM a\n");
        }
        good += usize::from(entries::dockerfile(&text));
    }
    // Of both there are many.
    assert!((500..19_000).contains(&good), "{good}");
}

#[test]
fn no_word_panics_and_plain_text_stays() {
    let mut numbers = Numbers(2);
    let mut good = 0;
    for _ in 0..5_000 {
        good += usize::from(entries::expansion(&numbers.text(WORDS)));
    }
    assert!((500..4_500).contains(&good), "{good}");
}

#[test]
fn no_pattern_panics_and_a_walk_says_the_same() {
    let mut numbers = Numbers(3);
    let mut good = 0;
    for _ in 0..20_000 {
        let pieces = if numbers.below(4) == 0 { LINES } else { GLOBS };
        good += usize::from(entries::ignore(&numbers.text(pieces)));
    }
    assert!((1_000..19_500).contains(&good), "{good}");
}
