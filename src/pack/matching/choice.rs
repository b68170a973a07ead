//! The choice of the superchunks that new data is searched for in: those that share most of its anchors.
//!
//! Greedy maximum coverage: the superchunk with most anchors that no chosen one has is next. Time is linear in the
//! number of votes.

use crate::format::ids::SuperchunkId;
use std::collections::HashMap;

/// The votes of anchors for superchunks.
#[derive(Debug, Default)]
pub(super) struct Votes {
    numbers: HashMap<SuperchunkId, usize>,
    candidates: Vec<Candidate>,
    /// The candidates of each anchor, one anchor after another, and where each anchor's begin.
    ballots: Vec<usize>,
    begins: Vec<usize>,
}

#[derive(Debug)]
struct Candidate {
    id: SuperchunkId,
    /// The anchors that this superchunk has.
    anchors: Vec<usize>,
    /// Number of its anchors that no chosen superchunk has.
    fresh: usize,
}

impl Votes {
    /// Adds the vote of one anchor: all superchunks that have it.
    pub(super) fn add(&mut self, superchunks: impl Iterator<Item = SuperchunkId>) {
        let anchor = self.begins.len();
        let before = self.ballots.len();
        for id in superchunks {
            let number = *self.numbers.entry(id).or_insert_with(|| {
                self.candidates.push(Candidate { id, anchors: Vec::new(), fresh: 0 });
                self.candidates.len() - 1
            });
            self.ballots.push(number);
            self.candidates[number].anchors.push(anchor);
            self.candidates[number].fresh += 1;
        }
        if self.ballots.len() > before {
            self.begins.push(before);
        }
    }

    /// Chooses at most `most` superchunks. Each has at least `least` anchors, at least one, that no superchunk chosen
    /// before it has. Of equally good ones the newest is chosen.
    pub(super) fn choose(mut self, most: usize, least: usize) -> Vec<SuperchunkId> {
        let mut chosen = Vec::new();
        let mut covered = vec![false; self.begins.len()];
        while chosen.len() < most {
            let by_worth = |candidate: &&mut Candidate| (candidate.fresh, candidate.id);
            let Some(best) = self.candidates.iter_mut().max_by_key(by_worth) else { break };
            if best.fresh < least.max(1) {
                break;
            }
            chosen.push(best.id);
            for anchor in std::mem::take(&mut best.anchors) {
                if std::mem::replace(&mut covered[anchor], true) {
                    continue;
                }
                let end = self.begins.get(anchor + 1).copied().unwrap_or(self.ballots.len());
                for &number in &self.ballots[self.begins[anchor]..end] {
                    self.candidates[number].fresh -= 1;
                }
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes(ballots: &[(&[u64], usize)]) -> Votes {
        let mut votes = Votes::default();
        for &(superchunks, times) in ballots {
            (0..times).for_each(|_| votes.add(superchunks.iter().map(|&id| SuperchunkId(id))));
        }
        votes
    }

    #[test]
    fn what_a_chosen_superchunk_has_counts_for_no_other() {
        // Superchunk 1 has 70 anchors, but 60 of them are in 2, too, which has 75.
        let ballots: &[(&[u64], usize)] = &[(&[1, 2], 60), (&[1], 10), (&[2], 15), (&[3], 12), (&[], 5)];
        let chosen = |most, least| votes(ballots).choose(most, least).iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(chosen(9, 0), [2, 3, 1]);
        assert_eq!(chosen(2, 0), [2, 3]);
        assert_eq!(chosen(9, 12), [2, 3]);
        assert_eq!(chosen(9, 76), [0u64; 0]);
        assert_eq!(chosen(0, 1), [0u64; 0]);
    }

    #[test]
    fn of_equally_good_ones_the_newest_is_chosen() {
        assert_eq!(votes(&[(&[5, 9, 7], 3)]).choose(9, 1), [SuperchunkId(9)]);
    }
}
