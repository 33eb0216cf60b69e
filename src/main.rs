//! The program: reads the command line and runs one command.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use ulm::config::{Cli, Command, Serve};
use ulm::{api, commands, learn, log, models, serve, teach, telemetry};

/// Training and serving allocate and free large tensors all the time; this allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // candle shares some element-wise operations between threads of its own, which wait for each other by spinning: beside loops that
    // have all cores already, that is cores lost. It reads the variable when it first needs them.
    // SAFETY: no other thread runs yet that could read the environment meanwhile.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    telemetry::start(&cli.log)?;
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(options) => serve(&options),
        Command::Pretrain(options) => commands::pretrain(&options),
        Command::Train(options) => teach::train(&options),
        Command::Learn(options) => tokio::runtime::Runtime::new()?.block_on(learn::run(&options)),
        Command::Merge(options) => teach::merge(&options),
        Command::Eval(options) => commands::eval(&options),
        Command::Bench(options) => commands::bench(&options),
        Command::Model(command) => models::run(&command),
        Command::Log(command) => actix_web::rt::System::new().block_on(log::run(&command)),
        Command::Openapi => Ok(write!(std::io::stdout(), "{}", api::openapi::yaml()?)?),
    }
}

fn serve(options: &Serve) -> anyhow::Result<()> {
    actix_web::rt::System::new().block_on(serve::run(options))
}
