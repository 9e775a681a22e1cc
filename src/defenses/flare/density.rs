//! Clusters of points in the plane by density, as a tree: HDBSCAN (Campello, Moulavi and Sander 2013).

use rayon::prelude::*;

/// Two clusters that become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Merge {
    /// Points below n, and from n on the merges before.
    pub parts: [usize; 2],
    /// Mutual reachability distance at which they meet.
    pub distance: f64,
    /// Points of both.
    pub size: usize,
}

/// Single linkage of `points` by mutual reachability, the larger of the distance of two points and of how far each is from its `dense`-th
/// neighbour: n - 1 merges, nearest first.
pub(super) fn linkage(points: &[[f64; 2]], dense: usize) -> Vec<Merge> {
    let n = points.len();
    let square = |i: usize, j: usize| (points[i][0] - points[j][0]).powi(2) + (points[i][1] - points[j][1]).powi(2);
    let core: Vec<f64> = (0..n)
        .into_par_iter()
        .map(|i| {
            let mut all: Vec<f64> = (0..n).map(|j| square(i, j)).collect();
            // The point itself is the nearest.
            *all.select_nth_unstable_by(dense.min(n - 1), f64::total_cmp).1
        })
        .collect();
    // The least spanning tree (Prim 1957), all points being connected.
    let mut tree: Vec<(f64, usize, usize)> = Vec::with_capacity(n.saturating_sub(1));
    let mut nearest: Vec<(f64, usize)> = vec![(f64::INFINITY, 0); n];
    let mut inside = vec![false; n];
    let mut at = 0;
    for _ in 1..n {
        inside[at] = true;
        let mut best = (f64::INFINITY, 0);
        for j in (0..n).filter(|&j| !inside[j]) {
            let reach = square(at, j).max(core[at]).max(core[j]);
            if reach < nearest[j].0 {
                nearest[j] = (reach, at);
            }
            if nearest[j].0 < best.0 {
                best = (nearest[j].0, j);
            }
        }
        tree.push((best.0.sqrt(), nearest[best.1].1, best.1));
        at = best.1;
    }
    tree.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut up: Vec<usize> = (0..2 * n).collect();
    let mut merges: Vec<Merge> = Vec::with_capacity(tree.len());
    for (distance, a, b) in tree {
        let parts = [root(&mut up, a), root(&mut up, b)];
        let size = parts.iter().map(|part| if *part < n { 1 } else { merges[part - n].size }).sum();
        parts.iter().for_each(|part| up[*part] = n + merges.len());
        merges.push(Merge { parts, distance, size });
    }
    merges
}

fn root(up: &mut [usize], mut at: usize) -> usize {
    while up[at] != at {
        up[at] = up[up[at]];
        at = up[at];
    }
    at
}

/// A cluster of the condensed tree: what is left of it as density rises, until it falls apart into two of at least the least size.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cluster {
    /// Points at its birth.
    pub size: usize,
    /// Density, 1 / distance, at which it parted from another; 0 of the whole.
    pub born: f64,
    /// Density at which it falls apart, or has fewer points than a cluster has.
    pub ends: f64,
    /// The two that it falls apart into, where it does.
    pub parts: Option<[usize; 2]>,
}

/// The condensed tree of a linkage: clusters have at least `least` points, and the first holds all.
pub(super) fn condensed(merges: &[Merge], least: usize) -> Vec<Cluster> {
    let n = merges.len() + 1;
    let size = |node: usize| if node < n { 1 } else { merges[node - n].size };
    let mut clusters = vec![Cluster { size: n, born: 0.0, ends: f64::INFINITY, parts: None }];
    let mut todo = vec![(0, 2 * n - 2)];
    while let Some((cluster, mut node)) = todo.pop() {
        // What falls off in fewer points than a cluster has is noise.
        while node >= n {
            let Merge { parts, distance, .. } = merges[node - n];
            let large: Vec<usize> = parts.into_iter().filter(|part| size(*part) >= least).collect();
            if let [one] = large[..] {
                node = one;
                continue;
            }
            let density = 1.0 / distance.max(f64::MIN_POSITIVE);
            clusters[cluster].ends = density;
            if let [a, b] = large[..] {
                let first = clusters.len();
                let born = |part| Cluster { size: size(part), born: density, ends: f64::INFINITY, parts: None };
                clusters.extend([a, b].map(born));
                clusters[cluster].parts = Some([first, first + 1]);
                todo.extend([(first, a), (first + 1, b)]);
            }
            break;
        }
    }
    clusters
}

/// The clusters at `distance`: of each point the number of its cluster, where that has at least `least` points.
pub(super) fn cut(merges: &[Merge], distance: f64, least: usize) -> Vec<Option<usize>> {
    let n = merges.len() + 1;
    let mut up: Vec<usize> = (0..2 * n).collect();
    for (k, merge) in merges.iter().enumerate().filter(|(_, merge)| merge.distance <= distance) {
        merge.parts.iter().for_each(|part| up[*part] = n + k);
    }
    let roots: Vec<usize> = (0..n).map(|i| root(&mut up, i)).collect();
    let size = |node: usize| if node < n { 1 } else { merges[node - n].size };
    roots.into_iter().map(|root| Some(root).filter(|root| size(*root) >= least)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SciPy: with D the points' distances and c = np.sort(D)[:, 2], `linkage(squareform(np.maximum(D, np.maximum(c, c[:, None])) * (1 - np.eye(6))), "single")[:, 2]`.
    #[test]
    fn points_meet_at_their_mutual_reachability() {
        let points = [[0.0, 0.0], [1.0, 0.2], [0.3, 1.5], [6.0, 5.0], [7.0, 5.5], [6.4, 7.0]];
        let merges = linkage(&points, 2);
        let expected = [1.529_705_9, 1.529_705_9, 2.039_607_8, 2.039_607_8, 6.688_796_6];
        for (merge, expected) in merges.iter().zip(expected) {
            assert!((merge.distance - expected).abs() < 1e-6, "{merge:?}, not {expected}");
        }
        assert_eq!(merges.last().map(|merge| merge.size), Some(6));
        let tree = condensed(&merges, 3);
        assert_eq!((tree.len(), tree[0].parts, tree[1].size, tree[2].size), (3, Some([1, 2]), 3, 3));
        assert!((tree[1].born - 1.0 / 6.688_796_6).abs() < 1e-6 && tree[1].ends > tree[1].born);
        let found = cut(&merges, 3.0, 3);
        assert!(
            found[..3].iter().all(|c| c.is_some() && *c == found[0])
                && found[3..].iter().all(|c| *c == found[3])
                && found[0] != found[3]
        );
        assert_eq!(cut(&merges, 1.6, 3)[3], None, "not yet a cluster");
    }
}
