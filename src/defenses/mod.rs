//! Defenses: training data in, a verdict on every sample and a clean network out. They see data and labels as a victim has
//! them: no attack, no ground truth, no test set (tests/floors.rs holds them to it).

pub mod dau;
