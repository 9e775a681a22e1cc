//! What the steps draw from, and what is held out from them.

use rand_chacha::ChaCha8Rng;

use crate::rng;

/// Draws from a list in shuffled order, over and over.
pub(super) struct Cycle {
    items: Vec<usize>,
    at: usize,
    rng: ChaCha8Rng,
}

impl Cycle {
    pub(super) fn new(items: Vec<usize>, seed: u64, purpose: &str) -> Cycle {
        Cycle { at: items.len(), items, rng: rng::stream(seed, purpose) }
    }

    /// `count` items; none from an empty list.
    pub(super) fn draw(&mut self, count: usize) -> Vec<usize> {
        let count = if self.items.is_empty() { 0 } else { count };
        (0..count)
            .map(|_| {
                if self.at == self.items.len() {
                    rng::shuffle(&mut self.rng, &mut self.items);
                    self.at = 0;
                }
                self.at += 1;
                self.items[self.at - 1]
            })
            .collect()
    }
}

/// One in so many is held out.
const ONE_IN: usize = 10;

/// Takes a tenth of `items` away, but `most` at most, and gives it back in order.
pub(super) fn hold_out(items: &mut Vec<usize>, most: usize, seed: u64, purpose: &str) -> Vec<usize> {
    let mut shuffled = items.clone();
    rng::shuffle(&mut rng::stream(seed, purpose), &mut shuffled);
    shuffled.truncate((items.len() / ONE_IN).min(most));
    shuffled.sort_unstable();
    items.retain(|i| shuffled.binary_search(i).is_err());
    shuffled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_drawn_once_a_round() {
        let mut cycle = Cycle::new((0..10).collect(), 1, "test");
        for _ in 0..3 {
            let mut round = [cycle.draw(4), cycle.draw(6)].concat();
            round.sort_unstable();
            assert_eq!(round, (0..10).collect::<Vec<_>>());
        }
        assert!(Cycle::new(Vec::new(), 1, "test").draw(3).is_empty());
    }

    #[test]
    fn what_is_held_out_is_a_tenth_and_is_not_drawn_from() {
        let all: Vec<usize> = (100..200).collect();
        let mut rest = all.clone();
        let held = hold_out(&mut rest, 64, 7, "held");
        assert_eq!((held.len(), rest.len()), (10, 90));
        let mut both = [held.clone(), rest].concat();
        both.sort_unstable();
        assert_eq!(both, all);
        assert_eq!(hold_out(&mut all.clone(), 64, 7, "held"), held);
        assert_ne!(hold_out(&mut all.clone(), 64, 8, "held"), held);
        assert_eq!(hold_out(&mut all.clone(), 3, 7, "held").len(), 3);
    }
}
