//! Finding what deflate cannot make smaller, before it tries.
//!
//! Layers carry packages, archives, pictures and keys: bytes that are compressed or encrypted already. deflate
//! spends as long on them as on anything else, and then stores them. Such bytes are told from others by how
//! evenly all 256 values occur (Pearson's chi-squared test), which takes a twentieth of the time.

use std::ops::Range;

/// How many bytes are judged together. deflate looks back as far, so that what follows a stretch of noise
/// loses nothing by starting anew.
const WINDOW: usize = 32 * 1024;

/// How many bytes of a window are looked at first.
const SAMPLE: usize = 2048;

/// What the test gives for random bytes is 255, give or take 23. Bytes that a perfect order-0 code shortens by
/// the fraction `f` add `11 * f * n` to it, for `n` of them: at this bound, less than a seventh of a percent of
/// a window, and a code has to be written down too.
const UNEVEN: usize = 768;

/// The same, of a sample: five deviations from what random bytes give, and not much more, so that the whole
/// window is seldom counted in vain.
const UNEVEN_SAMPLE: usize = 400;

/// A stretch of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    /// To be compressed.
    Plain(Range<usize>),
    /// As good as random: to be stored.
    Noise(Range<usize>),
}

/// Cuts `block` into stretches, in order and without a gap; an empty one is one empty stretch.
pub(super) fn stretches(block: &[u8]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    let mut repeats = Repeats::default();
    let mut at = 0;
    while at < block.len() {
        let window = at..block.len().min(at + WINDOW);
        at = window.end;
        let noise =
            window.len() == WINDOW && is_even(&block[window.clone()]) && !repeats.seen(block, &window);
        match (found.last_mut(), noise) {
            (Some(Stretch::Noise(last)), true) | (Some(Stretch::Plain(last)), false) => last.end = at,
            (_, true) => found.push(Stretch::Noise(window)),
            (_, false) => found.push(Stretch::Plain(window)),
        }
    }
    if found.is_empty() {
        found.push(Stretch::Plain(0..0));
    }
    found
}

fn is_even(window: &[u8]) -> bool {
    chi_squared(&window[..SAMPLE]) < UNEVEN_SAMPLE && chi_squared(window) < UNEVEN
}

/// Pearson's statistic for "all values are as likely", of 255 degrees of freedom.
fn chi_squared(bytes: &[u8]) -> usize {
    // Four tables, because counting the same value twice in a row has to wait for the first count.
    let mut counts = [[0_u32; 256]; 4];
    for four in bytes.chunks_exact(4) {
        for (table, &byte) in counts.iter_mut().zip(four) {
            table[usize::from(byte)] += 1;
        }
    }
    let squares: usize = (0..256)
        .map(|value| counts.iter().map(|table| table[value] as usize).sum::<usize>())
        .map(|count| count * count)
        .sum();
    (squares * 256 / bytes.len()).saturating_sub(bytes.len())
}

/// Noise that comes twice is no noise: deflate would refer to its first coming. Remembers one in 128 places
/// of what it has seen, chosen by their content.
struct Repeats {
    /// Where a chosen place was seen last, plus one.
    places: [u32; 256],
}

impl Default for Repeats {
    fn default() -> Self {
        Self { places: [0; 256] }
    }
}

impl Repeats {
    /// Whether `window` has something in common with itself, or with what was asked for within deflate's
    /// reach before it.
    fn seen(&mut self, block: &[u8], window: &Range<usize>) -> bool {
        const LEN: usize = 8;
        let mut seen = false;
        for (at, place) in block[window.clone()].windows(LEN).enumerate().map(|(n, p)| (window.start + n, p))
        {
            let hash = u32::from_le_bytes([place[0], place[1], place[2], place[3]]).wrapping_mul(0x9e37_79b1);
            if hash >> 25 != 0 {
                continue;
            }
            let slot = &mut self.places[usize::from((hash >> 17) as u8)];
            if let Some(before) = (*slot as usize).checked_sub(1) {
                seen |= at - before <= WINDOW && block[before..before + LEN] == *place;
            }
            *slot = at as u32 + 1;
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a xorshift generator.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .take(len)
        .collect()
    }

    #[test]
    fn noise_is_told_from_text_and_programs() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(|n| format!("{n} ").into_bytes()).collect();
        assert_eq!(stretches(&text), [Stretch::Plain(0..text.len())]);
        let base64: Vec<u8> = noise(4 * WINDOW).iter().map(|byte| b'A' + byte % 64).collect();
        assert_eq!(stretches(&base64), [Stretch::Plain(0..base64.len())]);
        let random = noise(4 * WINDOW);
        assert_eq!(stretches(&random), [Stretch::Noise(0..random.len())]);
    }

    #[test]
    fn stretches_cover_the_block_in_order() {
        let mut block = vec![b'x'; WINDOW + 100];
        block.extend_from_slice(&noise(3 * WINDOW));
        block.extend_from_slice(&[0; 77]);
        assert_eq!(
            stretches(&block),
            [
                Stretch::Plain(0..2 * WINDOW),
                Stretch::Noise(2 * WINDOW..4 * WINDOW),
                Stretch::Plain(4 * WINDOW..block.len())
            ]
        );
        assert_eq!(stretches(b""), [Stretch::Plain(0..0)]);
        assert_eq!(stretches(b"x"), [Stretch::Plain(0..1)]);
    }

    #[test]
    fn noise_that_repeats_is_left_to_deflate() {
        let page = noise(4096);
        let block = page.repeat(4 * WINDOW / page.len());
        assert_eq!(stretches(&block), [Stretch::Plain(0..block.len())]);
        let windows = noise(WINDOW).repeat(4);
        assert_eq!(stretches(&windows), [Stretch::Noise(0..WINDOW), Stretch::Plain(WINDOW..4 * WINDOW)]);
    }
}
