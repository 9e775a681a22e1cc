//! The program: see the library.

fn main() -> std::process::ExitCode {
    dau::cli::main()
}
