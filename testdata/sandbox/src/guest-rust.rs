//! Shows a Rust program what differs from run to run elsewhere, and what is
//! missing in the sandbox.
use std::collections::HashMap;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn main() {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).unwrap();
    let args: Vec<String> = std::env::args().collect();
    println!("arguments {:?}, KEY={:?}, read {:?}", args, std::env::var("KEY"), input);

    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(3000));
    println!("slept {:?}, time {:?}", start.elapsed(), SystemTime::now().duration_since(UNIX_EPOCH));

    let map: HashMap<i32, i32> = (0..20).map(|i| (i, i * i)).collect(); // randomly keyed
    println!("map {:?}", map.keys().collect::<Vec<_>>());
    println!("file {:?}", std::fs::read("/etc/passwd").map_err(|e| e.kind()));
    println!("file {:?}", std::fs::File::create("x").map_err(|e| e.kind()));
    println!("{:?}", (1..1000).map(|i| 1.0 / i as f64).sum::<f64>());
    eprintln!("diagnostics");
    std::process::exit(3);
}
