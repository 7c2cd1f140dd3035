use coracle::{Container, Image, Store};
fn main() -> Result<(), coracle::Error> {
    let store = Store::temp()?;
    let image = Image::host(&store)?;
    let out = Container::builder(&image).command(["sh", "-c", "id; hostname; ls /proc | head -3; cat /proc/self/status | grep -E 'Cap|Secc|NoNew'; ls -la / /dev; cat /proc/self/cgroup; cat /proc/self/uid_map; cat /etc/hosts; cat /etc/shadow; ls -la /root"]).run()?;
    println!("{}{}{}", out.status, out.stdout_text(), out.stderr_text());
    for _ in 0..5 {
        let t = std::time::Instant::now();
        let o = Container::builder(&image).command(["true"]).run()?;
        println!("{:?} {}", t.elapsed(), o.status);
    }
    for e in out.report.entries() {
        println!("{e}");
    }
    Ok(())
}
