use dau::gpu::*; use dau::graph::*; use dau::kernel::Kernels; use dau::ops::*; use std::sync::Arc;
fn main() {
    let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap());
    let n = 1 << 18;
    for rounds in [4u32, 64] {
        let op = RoofMultiplyAdd { rounds };
        let x = [Shape::f32(&[n])];
        let fl = op.flops(&x) as f64;
        let mut a = Alone::new(&kernels, Arc::new(op), &x).unwrap();
        for _ in 0..3 { let s = a.repeat(4).unwrap().as_secs_f64() / 4.0; println!("rounds {rounds}: wall {:.1} us {:.1} GFLOP/s", s * 1e6, fl / s * 1e-9); }
        let s = a.seconds(5).unwrap(); println!("  stamps {:.1} us {:.1} GFLOP/s", s * 1e6, fl / s * 1e-9);
    }
    let x = [Shape::f32(&[1 << 24])];
    let mut a = Alone::new(&kernels, Arc::new(RoofCopy), &x).unwrap();
    for _ in 0..3 { let s = a.repeat(4).unwrap().as_secs_f64() / 4.0; println!("copy wall {:.1} us {:.1} GB/s", s * 1e6, 2.0 * 4.0 * (1 << 24) as f64 / s * 1e-9); }
    let s = a.seconds(5).unwrap(); println!("  stamps {:.1} us", s * 1e6);
    let x = [Shape::f32(&[32, 32, 32, 16]), Shape::f32(&[3, 3, 16, 16])];
    let op = Conv2d { stride: 1, pad: 1 }; let fl = op.flops(&x) as f64;
    let mut a = Alone::new(&kernels, Arc::new(op), &x).unwrap();
    for _ in 0..3 { let s = a.repeat(16).unwrap().as_secs_f64() / 16.0; println!("conv wall {:.1} us {:.1} GFLOP/s", s * 1e6, fl / s * 1e-9); }
    let s = a.seconds(5).unwrap(); println!("  stamps {:.1} us", s * 1e6);
}
