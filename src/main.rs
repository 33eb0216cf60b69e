#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
use ulm::train::{pretrain::vq::*, run::*};
fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let device = candle_core::Device::Cpu;
    let config = ulm::model::config::VqConfig { codebook_size: 1024, codebook_dim: 8, latent_channels: 64, base_channels: 32, channel_multiplier: vec![1, 1, 2, 4], num_res_blocks: 1 };
    let steps = std::env::args().nth(1).unwrap().parse()?;
    let mut stage = VqStage::new(&config, 64, VqOptions { seed: 1, steps, batch: 8, rate: 1.2e-3, continuous: 300 }, &device)?;
    run(&mut stage, &RunOptions { dir: std::env::args().nth(2).unwrap().into(), every: std::time::Duration::from_secs(120), device })?;
    Ok(())
}
