//! The ends of pieces, many at a time.

use super::Pattern;
use super::scalar::Scan;
use super::window::Window;
use crate::masks::{Bits, Classify, WIDTH, Work, best};

/// Where a text is cut.
pub(in crate::bpe) struct Cuts<'t> {
    pattern: Pattern,
    scan: Scan<'t>,
    /// Where the piece after the last cut starts.
    pos: usize,
    ends: [usize; Cuts::BATCH],
    len: usize,
}

impl<'t> Cuts<'t> {
    /// Most cuts made before they are read: enough to make changing over cheap, few enough to stay in the
    /// nearest cache.
    pub(in crate::bpe) const BATCH: usize = 192;

    pub(in crate::bpe) fn new(pattern: Pattern, text: &'t str) -> Self {
        Self { pattern, scan: Scan::new(text), pos: 0, ends: [0; Self::BATCH], len: 0 }
    }

    pub(in crate::bpe) fn text(&self) -> &'t str {
        self.scan.text
    }

    /// The ends of consecutive pieces, the first of which starts where the last batch ended. None at the end.
    #[inline(always)]
    pub(in crate::bpe) fn ends(&self) -> &[usize] {
        &self.ends[..self.len]
    }

    /// Replaces [`Cuts::ends`] by the next ones.
    pub(in crate::bpe) fn advance(&mut self) {
        best(Fill(self));
    }

    /// # Safety
    /// The processor has the instructions of `C`.
    #[inline(always)]
    unsafe fn fill<C: Classify>(&mut self) {
        self.len = 0;
        // SAFETY: the caller's.
        unsafe {
            match self.pattern {
                Pattern::Gpt2 => self.fill_by::<C, Gpt2>(),
                Pattern::Cl100k => self.fill_by::<C, Cl100k<3>>(),
                Pattern::Qwen2 => self.fill_by::<C, Cl100k<1>>(),
                Pattern::O200k => self.fill_by::<C, O200k>(),
                Pattern::Characters => self.fill_characters(),
            }
        }
    }

    /// # Safety
    /// The processor has the instructions of `C`.
    #[inline(always)]
    unsafe fn fill_by<C: Classify, R: Rule>(&mut self) {
        let text = self.scan.text.as_bytes();
        while self.pos < text.len() && self.len + WIDTH <= Self::BATCH {
            let mut padded = [PADDING; WIDTH];
            let bytes = text[self.pos..].first_chunk().unwrap_or_else(|| {
                padded[..text.len() - self.pos].copy_from_slice(&text[self.pos..]);
                &padded
            });
            // SAFETY: the caller's.
            let ascii = unsafe { C::classify(bytes) };
            let mut window = Window::new(&self.scan, self.pos, ascii);
            let starts = R::starts(&mut window, &self.scan, self.pos);
            let sure = window.sure(starts) & !1;
            for (end, at) in self.ends[self.len..].iter_mut().zip(Bits(sure)) {
                *end = self.pos + at;
            }
            self.len += sure.count_ones() as usize;
            let end = if window.is_last {
                text.len()
            } else if sure == 0 {
                R::piece_end(&self.scan, self.pos)
            } else {
                self.pos = self.ends[self.len - 1];
                continue;
            };
            self.ends[self.len] = end;
            self.len += 1;
            self.pos = end;
        }
    }

    fn fill_characters(&mut self) {
        while self.len < Self::BATCH
            && let Some((_, len)) = self.scan.at(self.pos)
        {
            self.pos += len;
            self.ends[self.len] = self.pos;
            self.len += 1;
        }
    }
}

/// [`Cuts::advance`] as work for the instructions of this processor.
struct Fill<'a, 't>(&'a mut Cuts<'t>);

impl Work for Fill<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<C: Classify>(self) {
        // SAFETY: the caller's.
        unsafe { self.0.fill::<C>() }
    }
}

/// A pattern in both of its forms.
trait Rule {
    /// Where pieces start in a window.
    fn starts(window: &mut Window, scan: &Scan<'_>, pos: usize) -> u64;
    /// Where the piece at `pos` ends.
    fn piece_end(scan: &Scan<'_>, pos: usize) -> usize;
}

struct Gpt2;

impl Rule for Gpt2 {
    #[inline(always)]
    fn starts(window: &mut Window, scan: &Scan<'_>, pos: usize) -> u64 {
        window.gpt2(scan, pos)
    }

    fn piece_end(scan: &Scan<'_>, pos: usize) -> usize {
        scan.gpt2(pos)
    }
}

struct Cl100k<const MOST_NUMBERS: usize>;

impl<const MOST_NUMBERS: usize> Rule for Cl100k<MOST_NUMBERS> {
    #[inline(always)]
    fn starts(window: &mut Window, scan: &Scan<'_>, pos: usize) -> u64 {
        window.cl100k(scan, pos, MOST_NUMBERS)
    }

    fn piece_end(scan: &Scan<'_>, pos: usize) -> usize {
        scan.cl100k(pos, MOST_NUMBERS)
    }
}

struct O200k;

impl Rule for O200k {
    #[inline(always)]
    fn starts(window: &mut Window, scan: &Scan<'_>, pos: usize) -> u64 {
        window.o200k(scan, pos)
    }

    fn piece_end(scan: &Scan<'_>, pos: usize) -> usize {
        scan.o200k(pos)
    }
}

/// White space that is no line end: what the text looks like after its end, where nothing follows white space either.
const PADDING: u8 = b'\t';

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::pretokenize::tests::tricky;
    #[cfg(target_arch = "x86_64")]
    use crate::masks::Avx2;
    use crate::masks::Portable;
    use proptest::prelude::*;

    /// All ends by windows that are classified by `C`, and by the scanner of one piece at a time.
    fn both<C: Classify>(pattern: Pattern, text: &str) -> [Vec<usize>; 2] {
        let mut cuts = Cuts::new(pattern, text);
        let mut by_windows = Vec::new();
        loop {
            // SAFETY: the tests detect what `C` needs.
            unsafe { cuts.fill::<C>() };
            if cuts.ends().is_empty() {
                break;
            }
            by_windows.extend_from_slice(cuts.ends());
        }
        let scan = Scan::new(text);
        let mut by_pieces = Vec::new();
        let mut pos = 0;
        while pos < text.len() {
            pos = match pattern {
                Pattern::Gpt2 => scan.gpt2(pos),
                Pattern::Cl100k => scan.cl100k(pos, 3),
                Pattern::Qwen2 => scan.cl100k(pos, 1),
                Pattern::O200k => scan.o200k(pos),
                Pattern::Characters => pos + scan.at(pos).map_or(0, |(_, len)| len),
            };
            by_pieces.push(pos);
        }
        [by_windows, by_pieces]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn windows_equal_scanners_for_all_instruction_sets(text in tricky()) {
            for pattern in Pattern::ALL {
                let [by_windows, by_pieces] = both::<Portable>(pattern, &text);
                prop_assert_eq!(by_windows, by_pieces);
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") {
                    let [by_windows, by_pieces] = both::<Avx2>(pattern, &text);
                    prop_assert_eq!(by_windows, by_pieces);
                }
            }
        }
    }
}
