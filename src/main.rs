fn main() -> std::process::ExitCode {
    dau::cli::main()
}
