//! The `floe` program: hands its arguments to [`floe::cli`], which gives the exit status.

fn main() -> std::process::ExitCode {
    floe::cli::main(std::env::args_os().collect())
}
