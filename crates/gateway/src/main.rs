//! The `fanfare` binary: wires the command line to the library, and nothing else.

use std::process::ExitCode;

/// Returns memory after a storm of connections, where the system's allocator keeps it in fragments.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    fanfare::cli::run(std::env::args_os(), fanfare::serve)
}
