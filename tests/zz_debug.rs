mod common;
use common::resnet_w8;
use dau::graph::{Graph, Interpreter, Plan, Shape, Source, Tensor, Value};
use dau::nn::{Param, ParamKind, ParamSet};
use dau::ops::*;
use safetensors::SafeTensors;

#[test]
fn locate() {
    let kernels = common::kernels();
    let bytes = std::fs::read("tests/golden/resnet_w8.safetensors").unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut g = Graph::new();
    let b = 16;
    let pixels = g.input("pixels", Shape::u32(&[b, 16, 16]));
    let labels = g.input("labels", Shape::u32(&[b]));
    let weight = g.input("weight", Shape::f32(&[b]));
    let images = g.apply(Augment { mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2430, 0.2610], pad: 0, flip: false }, &[pixels]).unwrap()[0];
    let (out, params) = resnet_w8().build(&mut g, images, true).unwrap();
    let loss = g.apply(Loss { kind: LossKind::CrossEntropy }, &[out.logits, labels, weight]).unwrap();
    let trained: Vec<Param> = params.iter().filter(|p| p.kind.trainable()).cloned().collect();
    let values: Vec<Value> = trained.iter().map(|p| g.find_variable(&p.name).unwrap()).collect();
    let grads = g.backward(&[(out.logits, loss[1])], &values).unwrap();
    let mut vels = vec![];
    for (p, v) in trained.iter().zip(&values) {
        let vel = g.variable(&format!("vel/{}", p.name), g.shape(*v).clone());
        vels.push(vel);
        g.apply(Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4 }, &[*v, grads[v], vel]).unwrap();
    }
    let set = ParamSet::new(kernels.gpu(), params.clone()).unwrap();
    let mut vars = set.variables().clone();
    let mut it = Interpreter::new(&g);
    for p in params.iter().filter(|p| p.kind != ParamKind::Counter) {
        let t: Vec<f32> = bytemuck::pod_collect_to_vec(file.tensor(&format!("init/{}", p.name)).unwrap().data());
        set.write(p, &t);
        let d = p.kind.to_device(&t);
        it.set(g.find_variable(&p.name).unwrap(), Tensor::new(p.kind.device_shape(), d.iter().map(|x| f64::from(*x)).collect()));
    }
    for v in &vels {
        vars.insert(g.name(*v).to_string(), kernels.gpu().buffer("v", g.shape(*v).len()).unwrap());
        it.set(*v, Tensor::zeros(g.shape(*v).clone()));
    }
    let keep: Vec<Value> = g.values().filter(|v| matches!(g.source(*v), Source::Node { .. })).collect();
    let mut plan = Plan::new(&kernels, &g, &keep, &vars).unwrap();
    let px = file.tensor("train/images").unwrap().data().to_vec();
    let lb: Vec<u32> = bytemuck::pod_collect_to_vec(file.tensor("train/labels").unwrap().data());
    let expected: Vec<f32> = bytemuck::pod_collect_to_vec(file.tensor("steps_losses").unwrap().data());
    plan.write(weight, &[1.0f32 / 16.0; 16]).unwrap();
    it.set(weight, Tensor::new(Shape::f32(&[b]), vec![1.0 / 16.0; 16]));
    plan.set("n_valid", 16.0).unwrap();
    plan.set("lr", 0.02).unwrap();
    it.scalars.insert("n_valid", 16.0);
    it.scalars.insert("lr", 0.02);
    for step in 0..10 {
        let idx: Vec<usize> = (0..16).map(|j| (16 * step + j) % 64).collect();
        let p: Vec<u32> = idx.iter().flat_map(|i| px[i * 768..(i + 1) * 768].chunks(3).map(|c| u32::from_le_bytes([c[0], c[1], c[2], 0])).collect::<Vec<_>>()).collect();
        let l: Vec<u32> = idx.iter().map(|i| lb[*i]).collect();
        plan.write(pixels, &p).unwrap();
        plan.write(labels, &l).unwrap();
        it.set(pixels, Tensor::new(Shape::u32(&[b, 16, 16]), p.iter().map(|x| f64::from(*x)).collect()));
        it.set(labels, Tensor::new(Shape::u32(&[b]), l.iter().map(|x| f64::from(*x)).collect()));
        let got = plan.run_and_fetch(&keep).unwrap().wait(kernels.gpu()).unwrap();
        it.run();
        let m: f64 = it.get(loss[0]).data.iter().sum::<f64>() / 16.0;
        println!("STEP {step}: oracle loss {m:.9} golden {:.9} rel {:.2e}", expected[step], (m - f64::from(expected[step])).abs() / m);
        let mut first = 0;
        for (v, bts) in keep.iter().zip(&got) {
            let t = Tensor::from_bytes(g.shape(*v).clone(), bts);
            let r = it.get(*v);
            let e = t.relative_error(r);
            if e > 2e-5 && first < 6 {
                first += 1;
                println!("  {} {} err {e:.2e}", g.name(*v), g.shape(*v));
            }
            // sign disagreements of relu outputs
            if g.name(*v).starts_with("batch_norm#") {
                let flips: Vec<(usize, f64, f64)> = t.data.iter().zip(&r.data).enumerate().filter(|(_, (a, b))| (**a > 0.0) != (**b > 0.0)).map(|(i, (a, b))| (i, *a, *b)).collect();
                if !flips.is_empty() { println!("  flips in {} {}: {:?}", g.name(*v), g.shape(*v), &flips[..flips.len().min(4)]); }
            }
        }
    }
}
