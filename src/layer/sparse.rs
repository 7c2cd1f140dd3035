//! The maps of sparse files in tar archives (GNU tar manual, "Storing Sparse Files").
#![forbid(unsafe_code)]

use super::pax::decimal;
use super::tar::{BLOCK, number};
use std::io::Cursor;
use tar::{GnuExtSparseHeader, GnuSparseHeader};

type Pieces = Vec<(u64, u64)>;
type Parsed<T> = Result<T, &'static str>;

/// Pieces must follow each other inside of the file, and be all that is stored.
pub(super) fn check(pieces: &[(u64, u64)], stored: u64, size: u64) -> Parsed<()> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for &(offset, length) in pieces {
        if offset < end {
            return Err("a sparse map whose pieces overlap");
        }
        end = offset.checked_add(length).ok_or("a sparse map beyond 64 bits")?;
        sum += length;
    }
    if end > size {
        return Err("a sparse map beyond the file's end");
    }
    if sum != stored {
        return Err("a sparse map that does not describe the data");
    }
    Ok(())
}

/// The map of format 1.0 for a file of this size, filled up to a block, and how many bytes it and the pieces are.
pub(super) fn lines(pieces: &[(u64, u64)], size: u64) -> (Cursor<Vec<u8>>, u64) {
    let end = pieces.last().map_or(0, |(offset, length)| offset + length);
    // As GNU tar has it: an empty piece says where a file ends that ends in a hole.
    let last = (end < size).then_some((size, 0));
    let all = || pieces.iter().chain(&last);
    let mut map = format!("{}\n", all().count()).into_bytes();
    for (offset, length) in all() {
        map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    let stored = map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>();
    (Cursor::new(map), stored)
}

/// Format "old GNU": up to four pieces in the header, the unused ones empty.
pub(super) fn add_gnu(slots: &[GnuSparseHeader], pieces: &mut Pieces) -> Parsed<()> {
    for slot in slots.iter().take_while(|slot| slot.offset[0] != 0 || slot.numbytes[0] != 0) {
        let field = |field: &[u8]| number(field).and_then(|n| u64::try_from(n).ok());
        let piece = field(&slot.offset).zip(field(&slot.numbytes)).ok_or("a sparse map's number")?;
        pieces.push(piece);
    }
    Ok(())
}

/// 21 more in each block that follows; true when yet another block follows.
pub(super) fn add_gnu_block(block: &[u8; BLOCK], pieces: &mut Pieces) -> Parsed<bool> {
    let mut more = GnuExtSparseHeader::new();
    more.as_mut_bytes().copy_from_slice(block);
    add_gnu(more.sparse(), pieces)?;
    Ok(more.isextended[0] != 0)
}

/// Format 0.1: `offset,length,offset,length`.
pub(super) fn parse_list(text: &[u8]) -> Parsed<Pieces> {
    let numbers: Option<Vec<u64>> = text.split(|&b| b == b',').map(decimal).collect();
    pairs(&numbers.ok_or("GNU.sparse.map: not a list of numbers")?)
}

fn pairs(numbers: &[u64]) -> Parsed<Pieces> {
    if !numbers.len().is_multiple_of(2) {
        return Err("a sparse map with an odd count of numbers");
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Format 1.0: lines with the count of pieces, then offset and length of each.
#[derive(Default)]
pub(super) struct Lines {
    digits: Vec<u8>,
    count: Option<usize>,
    numbers: Vec<u64>,
}

impl Lines {
    /// Adds a block; gives the map when it is complete.
    pub(super) fn add(&mut self, block: &[u8; BLOCK]) -> Parsed<Option<Pieces>> {
        for &byte in block {
            if byte != b'\n' {
                self.digits.push(byte);
                if self.digits.len() > 20 {
                    return Err("a sparse map's number");
                }
                continue;
            }
            let number = decimal(&self.digits).ok_or("a sparse map's number")?;
            self.digits.clear();
            match self.count {
                None => self.count = Some(usize::try_from(number).map_err(|_| "a sparse map's count")?),
                Some(_) => self.numbers.push(number),
            }
            if self.count.and_then(|count| count.checked_mul(2)) == Some(self.numbers.len()) {
                return pairs(&self.numbers).map(Some);
            }
        }
        Ok(None)
    }
}
