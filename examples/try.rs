use coracle::{Container, Image, Network, Store};
use std::time::Instant;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open(std::env::var("STORE").unwrap_or("/tmp/lead/store".into()))?;
    let image = match Image::open(&store, "debian") {
        Ok(i) => i,
        Err(_) => {
            let t = Instant::now();
            let i = Image::import(&store, "/tmp/lead/debian.tar", "debian")?;
            println!("import {:?}", t.elapsed());
            i
        }
    };
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().map(String::as_str) == Some("bench") {
        let mut v: Vec<f64> = (0..200)
            .map(|_| {
                let t = Instant::now();
                let o = Container::builder(&image).command(["true"]).run().unwrap();
                assert!(o.status.success());
                t.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        v.sort_by(f64::total_cmp);
        println!("p50 {:.3} p95 {:.3} min {:.3}", v[100], v[190], v[0]);
        return Ok(());
    }
    let out = Container::builder(&image).command(args).network(Network::host()).run()?;
    print!("{}{}", out.stdout_text(), out.stderr_text());
    for e in out.report.entries() {
        println!("{e}");
    }
    println!("{}", out.status);
    Ok(())
}
