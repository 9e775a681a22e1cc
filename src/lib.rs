//! dau: a portable GPU engine that trains residual networks (wgpu, hand-written WGSL), and on it the backdoor defense
//! Decoupled Adversarial Unlearning. `ARCHITECTURE.md` shows the floors.
// One word of it opens experimental features; see `gpu`.
#![deny(unsafe_code)]

pub mod attacks;
pub mod bench;
pub mod cli;
pub mod data;
pub mod defenses;
pub mod experiment;
pub mod files;
pub mod gpu;
pub mod graph;
pub mod kernel;
pub mod nn;
pub mod ops;
pub mod options;
pub mod report;
pub mod rng;
pub mod torch;
pub mod train;
