//! Shuffle sharding: each flow is dealt a hand of queues, so that two flows seldom share all of theirs.

use sha2::{Digest, Sha256};

/// The hash of a flow: a FlowSchema's name and what tells its flows apart.
pub fn hash(schema: &str, distinguisher: &str) -> u64 {
    let mut digest = Sha256::new();
    for part in [schema, distinguisher] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    let mut word = [0; 8];
    word.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(word)
}

/// `hand` different numbers below `deck`, from a hash.
pub fn deal(mut hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut cards: Vec<usize> = Vec::with_capacity(hand);
    for dealt in 0..hand.min(deck) {
        let left = (deck - dealt) as u64;
        // The place among the cards that are still in the deck.
        let mut card = usize::try_from(hash % left).unwrap_or_default();
        hash /= left;
        let mut sorted = cards.clone();
        sorted.sort_unstable();
        for taken in sorted {
            if card >= taken {
                card += 1;
            }
        }
        cards.push(card);
    }
    cards
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn flows_are_told_apart() {
        assert_ne!(hash("a", "bc"), hash("ab", "c"));
        assert_eq!(hash("a", "b"), hash("a", "b"));
    }

    proptest! {
        #[test]
        fn a_hand_has_no_card_twice(hash: u64, deck in 1usize..600, hand in 0usize..10) {
            let mut cards = deal(hash, deck, hand);
            prop_assert_eq!(cards.len(), hand.min(deck));
            prop_assert!(cards.iter().all(|card| *card < deck));
            cards.sort_unstable();
            cards.dedup();
            prop_assert_eq!(cards.len(), hand.min(deck));
        }
    }
}
