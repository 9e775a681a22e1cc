//! The loader's directives on texts made for it. `expand` only takes files under `shaders/`, so this compiles the loader a
//! second time, with an `include_str!` that hands it the texts below under the names of real files.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use dau::kernel::{KernelError, KernelId};

/// What stands in for `shaders/<name>.wgsl`; names not listed are empty.
const TEXTS: [(&str, &str); 11] = [
    ("common/index", "fn helper() {}\n"),
    ("add", "//: include index\nconst N = 2u;\n//: for i in 0..N\nlet a{i} = {i * N}; {{i + 1}}\n//: end\n"),
    (
        "argmax",
        "const MT = 4u;\nconst CL = 2u;\n//: for j in 0..MT / CL\n//: for i in 0..CL\nx{j}_{i} {i / CL} {j % CL}\n//: end\n//: end\n",
    ),
    ("augment", "a\n//: for i in 0..2\nb\n"),
    (
        "winograd",
        "const W = 8u;\narray<vec{W / 2}<u64>>\n//: for i in 0..2\n//: for j in 1..2\na{i * 3 + j}_{j * W % 6 / 2 + 1}\n//: end\n//: end\n",
    ),
    (
        "roof",
        "helper\n@compute\nfn first() {\n    one\n}\nbetween\n@compute @workgroup_size(64)\nfn second() {\n    if {\n    }\n}\nend\n",
    ),
    ("batch_norm", "a\n//: end\n"),
    ("linear", "//: for i in 0..2\n//: for j in 0..2\n//: end\n"),
    ("loss", "//: for i in 0..M\n//: end\n"),
    ("optimizer", "//: for i over 0..2\n//: end\n"),
    ("reduce", "//: include nothing\n"),
];

#[path = "."]
mod loader {
    use super::{KernelError, KernelId};

    const fn text(name: &str) -> &'static str {
        let mut i = 0;
        while i < super::TEXTS.len() {
            if same(super::TEXTS[i].0.as_bytes(), name.as_bytes()) {
                return super::TEXTS[i].1;
            }
            i += 1;
        }
        ""
    }

    const fn same(a: &[u8], b: &[u8]) -> bool {
        let mut i = 0;
        while i < a.len() && i < b.len() && a[i] == b[i] {
            i += 1;
        }
        i == a.len() && i == b.len()
    }

    macro_rules! include_str {
        (concat!($folder:literal, $name:literal, $ending:literal)) => {
            super::text($name)
        };
    }

    #[path = "../src/kernel/source.rs"]
    mod source;

    pub use source::expand;
}

fn expanded(file: &'static str, consts: &[(&'static str, u32)]) -> String {
    loader::expand(&KernelId::new(file, "any").with(consts)).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(file: &'static str, consts: &[(&'static str, u32)]) -> String {
    loader::expand(&KernelId::new(file, "any").with(consts)).expect_err("refused").to_string()
}

#[test]
fn a_block_is_repeated_with_its_variable_replaced_and_other_braces_left_alone() {
    assert_eq!(expanded("add", &[]), "fn helper() {}\nconst N = 2u;\nlet a0 = 0; {1}\nlet a1 = 2; {2}\n");
    let three = "let a0 = 0; {1}\nlet a1 = 3; {2}\nlet a2 = 6; {3}\n";
    assert_eq!(expanded("add", &[("N", 3)]), format!("fn helper() {{}}\nconst N = 3u;\n{three}"));
    assert_eq!(expanded("add", &[("N", 0)]), "fn helper() {}\nconst N = 0u;\n");
}

#[test]
fn blocks_nest_and_each_variable_has_its_own_block() {
    let body = "x0_0 0 0\nx0_1 0 0\nx1_0 0 1\nx1_1 0 1\n";
    assert_eq!(expanded("argmax", &[]), format!("const MT = 4u;\nconst CL = 2u;\n{body}"));
    let body = "x0_0 0 0\nx1_0 0 0\n";
    assert_eq!(expanded("argmax", &[("CL", 1), ("MT", 2)]), format!("const MT = 2u;\nconst CL = 1u;\n{body}"));
}

#[test]
fn an_end_and_a_for_that_do_not_match_are_refused_with_their_lines() {
    assert_eq!(refused("augment", &[]), "shaders/augment.wgsl line 2: no `//: end` for this `//: for`");
    assert_eq!(refused("batch_norm", &[]), "shaders/batch_norm.wgsl line 2: `//: end` without `//: for`");
    assert_eq!(refused("linear", &[]), "shaders/linear.wgsl line 1: no `//: end` for this `//: for`");
}

#[test]
fn a_range_that_cannot_be_understood_is_refused_with_its_line() {
    assert_eq!(refused("loss", &[]), "shaders/loss.wgsl line 1: cannot understand `//: for i in 0..M`");
    assert_eq!(refused("optimizer", &[]), "shaders/optimizer.wgsl line 1: cannot understand `//: for i over 0..2`");
    assert_eq!(refused("argmax", &[("CL", 0)]), "shaders/argmax.wgsl line 3: cannot understand `//: for j in 0..MT / CL`");
}

#[test]
fn an_unknown_constant_or_include_is_refused_by_name() {
    assert_eq!(refused("argmax", &[("NT", 1)]), "shaders/argmax.wgsl has no `const NT = ...u;`");
    assert_eq!(refused("argmax", &[("CL", 1), ("CL", 2)]), "shaders/argmax.wgsl has no `const (twice) = ...u;`");
    assert_eq!(refused("reduce", &[]), "no shader file \"common/nothing\" under shaders/");
}

#[test]
fn terms_are_sums_of_products_and_constants_stand_in_the_text() {
    assert_eq!(expanded("winograd", &[]), "const W = 8u;\narray<vec4<u64>>\na1_2\na4_2\n");
    assert!(expanded("winograd", &[("W", 4)]).contains("array<vec2<u64>>\na1_3\na4_3\n"));
}

#[test]
fn other_entry_points_are_left_out() {
    let text = |entry| loader::expand(&KernelId::new("roof", entry)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(text("first"), "helper\n@compute\nfn first() {\n    one\n}\nbetween\nend\n");
    assert_eq!(text("second"), "helper\nbetween\n@compute @workgroup_size(64)\nfn second() {\n    if {\n    }\n}\nend\n");
    assert!(text("third").contains("fn first") && text("third").contains("fn second"));
}
