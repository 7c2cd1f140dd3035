//! Archives for tests, block by block, so that they can be wrong. Used by the tests in `tests/` too.
#![allow(dead_code)]

/// An archive being written.
#[derive(Clone, Default)]
pub struct Raw(pub Vec<u8>, usize);

pub fn checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..512].iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    field[..width].copy_from_slice(format!("{value:0width$o}").as_bytes());
}

impl Raw {
    pub fn new() -> Self {
        Self::default()
    }

    /// A ustar header of root's with mode 0644, changed by `change` before its checksum is made.
    pub fn header(mut self, path: &[u8], flag: u8, size: u64, change: impl FnOnce(&mut [u8])) -> Self {
        let mut header = [0; 512];
        header[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        octal(&mut header[100..108], if flag == b'5' { 0o755 } else { 0o644 });
        octal(&mut header[108..116], 0);
        octal(&mut header[116..124], 0);
        octal(&mut header[124..136], size);
        octal(&mut header[136..148], 1_000_000_000);
        header[156] = flag;
        header[257..265].copy_from_slice(b"ustar\x0000");
        change(&mut header);
        checksum(&mut header);
        self.1 = self.0.len();
        self.0.extend_from_slice(&header);
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, data: &str) -> Self {
        self.header(path.as_bytes(), b'0', data.len() as u64, |_| ()).data(data.as_bytes())
    }

    pub fn dir(self, path: &str) -> Self {
        self.header(path.as_bytes(), b'5', 0, |_| ())
    }

    pub fn link(self, path: &str, flag: u8, target: &str) -> Self {
        self.header(path.as_bytes(), flag, 0, |h| {
            h[157..157 + target.len()].copy_from_slice(target.as_bytes())
        })
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(path, b'2', target)
    }

    pub fn hard(self, path: &str, target: &str) -> Self {
        self.link(path, b'1', target)
    }

    pub fn device(self, path: &str, flag: u8, major: u64, minor: u64) -> Self {
        self.header(path.as_bytes(), flag, 0, |h| {
            octal(&mut h[329..337], major);
            octal(&mut h[337..345], minor);
        })
    }

    /// The mode of the last entry.
    pub fn mode(mut self, mode: u64) -> Self {
        let at = self.1;
        octal(&mut self.0[at + 100..at + 108], mode);
        checksum(&mut self.0[at..at + 512]);
        self
    }

    /// An extended header of type `flag` with these bytes in it.
    pub fn extended(self, flag: u8, bytes: &[u8]) -> Self {
        self.header(b"PaxHeaders/x", flag, bytes.len() as u64, |_| ()).data(bytes)
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let bytes: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.extended(b'x', &bytes)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..rest + 20).find(|n| n - n.to_string().len() == rest).expect("a length exists");
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// A generator of numbers that are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Damages an archive, and mends the checksums, so that the damage is found by nothing simpler.
pub fn damage(archive: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(archive.len());
        match random.below(6) {
            0 => archive[at] = random.next() as u8,
            1 => archive[at] ^= 1 << random.below(8),
            2 => archive[at] = b"0123456789= \n/.\0xgLKS15\xff\x80"[random.below(25)],
            3 => archive.truncate(at.max(1)),
            // A block twice, or one in place of another.
            4 => {
                let from = at / 512 * 512;
                let block = archive[from..(from + 512).min(archive.len())].to_vec();
                let to = random.below(archive.len()) / 512 * 512;
                archive.splice(to..to, block);
            }
            _ => {
                let (from, to) = (at / 512 * 512, random.below(archive.len()) / 512 * 512);
                if from.max(to) + 512 <= archive.len() {
                    archive.copy_within(from..from + 512, to);
                }
            }
        }
    }
    if random.below(4) > 0 {
        let blocks = archive.len() / 512;
        for block in 0..blocks {
            let header = &mut archive[block * 512..block * 512 + 512];
            if &header[257..262] == b"ustar" {
                checksum(header);
            }
        }
    }
}
