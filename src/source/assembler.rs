//! Whole lines out of bytes that come in any pieces.

/// Puts lines together.
///
/// # Invariants
///
/// - `partial` has no newline, and fewer bytes than `most`.
/// - While `skipping`, `partial` is empty: the line at hand is too long and is dropped.
#[derive(Debug)]
pub struct Assembler {
    /// The most bytes of a line, its newline included.
    most: usize,
    /// The beginning of a line that has not ended.
    partial: Vec<u8>,
    skipping: bool,
    /// Bytes since the last line ended.
    pending: u64,
    /// Lines that were too long.
    too_long: u64,
    /// Lines that were never ended.
    cut: u64,
}

impl Assembler {
    /// Lines of `most` bytes at most, newline included; longer ones are dropped and counted.
    pub fn new(most: usize) -> Self {
        Self { most, partial: Vec::new(), skipping: false, pending: 0, too_long: 0, cut: 0 }
    }

    /// Takes bytes, and appends to `out` the lines that are whole with them. Says how many bytes it has taken: it stops
    /// short of a line that is too long where `out` has any, so that what is in `out` came without a gap.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while let Some(end) = bytes[taken..].iter().position(|&byte| byte == b'\n') {
            let line = &bytes[taken..=taken + end];
            let fits = !self.skipping && self.partial.len() + line.len() <= self.most;
            if fits {
                out.append(&mut self.partial);
                out.extend_from_slice(line);
            } else if !out.is_empty() {
                return taken;
            } else {
                self.too_long += 1;
            }
            self.partial.clear();
            (self.skipping, self.pending) = (false, 0);
            taken += line.len();
        }
        let rest = &bytes[taken..];
        self.pending += rest.len() as u64;
        self.skipping |= self.partial.len() + rest.len() >= self.most;
        match self.skipping {
            true => self.partial.clear(),
            false => self.partial.extend_from_slice(rest),
        }
        bytes.len()
    }

    /// As [`Assembler::push`], of all bytes, whatever is dropped between.
    pub fn push_all(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        let mut piece = Vec::new();
        while !bytes.is_empty() {
            let taken = self.push(bytes, &mut piece);
            out.append(&mut piece);
            bytes = &bytes[taken..];
        }
    }

    /// Bytes taken since the last line ended.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// No more of the line at hand will come: it is dropped, and what comes begins a new one.
    pub fn cut(&mut self) {
        match self.skipping {
            true => self.too_long += 1,
            false => self.cut += u64::from(self.pending > 0),
        }
        self.partial.clear();
        (self.skipping, self.pending) = (false, 0);
    }

    /// The line at hand is dropped when it ends.
    pub fn skip_line(&mut self) {
        self.partial.clear();
        self.skipping = true;
    }

    /// Lines that were too long, and lines that were never ended, since this was last asked.
    pub fn take_counts(&mut self) -> [u64; 2] {
        [std::mem::take(&mut self.too_long), std::mem::take(&mut self.cut)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: lines end with a newline, and those that are too long are left out.
    fn lines(bytes: &[u8], most: usize) -> (Vec<u8>, u64, u64) {
        let mut lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
        let last = lines.pop_if(|line| !line.ends_with(b"\n")).unwrap_or_default();
        let is_cut = !last.is_empty() && last.len() < most;
        let (fit, long): (Vec<&[u8]>, Vec<&[u8]>) = lines.into_iter().partition(|line| line.len() <= most);
        (fit.concat(), long.len() as u64 + u64::from(last.len() >= most), u64::from(is_cut))
    }

    #[test]
    fn any_pieces_give_the_same_lines() {
        let mut x = 3u32;
        let mut random = |below: usize| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as usize % below
        };
        for _ in 0..20_000 {
            let most = 1 + random(9);
            let bytes: Vec<u8> =
                (0..random(60)).map(|_| [b'\n', b'a', b'b', b'c'][random(4).min(random(5))]).collect();
            let (mut assembler, mut out, mut rest) = (Assembler::new(most), Vec::new(), &bytes[..]);
            let mut offset = 0;
            while !rest.is_empty() {
                let (piece, mut chunk) = (&rest[..1 + random(rest.len())], Vec::new());
                let taken = assembler.push(piece, &mut chunk);
                assert!(taken > 0);
                offset += taken;
                // What came out is what stands before the line at hand, without a gap.
                let end = offset - assembler.pending() as usize;
                if !chunk.is_empty() {
                    assert_eq!(&bytes[end - chunk.len()..end], chunk);
                }
                assert!(assembler.partial.len() < most);
                out.extend(chunk);
                rest = &rest[taken..];
            }
            assembler.cut();
            let [too_long, cut] = assembler.take_counts();
            assert_eq!((out, too_long, cut), lines(&bytes, most), "{most} {bytes:?}");
            let (mut assembler, mut out) = (Assembler::new(most), Vec::new());
            assembler.push_all(&bytes, &mut out);
            assembler.cut();
            assert_eq!(out, lines(&bytes, most).0);
        }
    }

    #[test]
    fn a_line_whose_beginning_is_not_known_is_dropped() {
        let (mut assembler, mut out) = (Assembler::new(9), Vec::new());
        assembler.skip_line();
        assembler.push_all(b"half\nwhole\nmore", &mut out);
        assert_eq!(out, b"whole\n");
        assembler.cut();
        assembler.push_all(b"\nnext\n", &mut out);
        assert_eq!((out.as_slice(), assembler.take_counts()), (&b"whole\n\nnext\n"[..], [1, 1]));
    }
}
