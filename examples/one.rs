use coracle::{Container, Image, Store};
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open("/tmp/lead/store")?;
    let image = Image::open(&store, "debian")?;
    for _ in 0..3 {
        Container::builder(&image).command(["true"]).run()?;
    }
    unsafe_free();
    Container::builder(&image).command(["true"]).run()?;
    Ok(())
}
fn unsafe_free() {
    let _ = std::fs::metadata("/marker-begin");
}
