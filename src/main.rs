#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let dir = std::env::args().nth(1).unwrap();
    let mut options = ulm::train::pretrain::PretrainOptions::demo(dir.as_ref(), candle_core::Device::Cpu);
    if let Some(s) = std::env::args().nth(2) { let v: Vec<u64> = s.split(',').map(|x| x.parse().unwrap()).collect(); options.steps = v.try_into().unwrap(); }
    ulm::train::pretrain::pretrain(&options)?;
    Ok(())
}
