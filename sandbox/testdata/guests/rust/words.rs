//! Counts the words of standard input, and hashes it: a program as tenants
//! write them. With an argument it is a probe instead.
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98,
    0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
    0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8,
    0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819,
    0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
    0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2,
];

/// SHA-256 as in FIPS 180-4.
fn sha256(data: &[u8]) -> [u8; 32] {
    let mut h: [u32; 8] = [
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    ];
    let mut message = data.to_vec();
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend_from_slice(&(data.len() as u64 * 8).to_be_bytes());
    let mut w = [0u32; 64];
    for block in message.chunks_exact(64) {
        for (word, bytes) in w.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for i in 16..64 {
            let s0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ (w[i - 15] >> 3);
            let s1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ (w[i - 2] >> 10);
            w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
        }
        let mut v = h;
        for i in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let choice = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = v[7].wrapping_add(s1).wrapping_add(choice).wrapping_add(K[i]).wrapping_add(w[i]);
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            v.copy_within(0..7, 1);
            v[4] = v[4].wrapping_add(t1);
            v[0] = t1.wrapping_add(s0).wrapping_add(majority);
        }
        for (sum, x) in h.iter_mut().zip(v) {
            *sum = sum.wrapping_add(x);
        }
    }
    let mut out = [0; 32];
    for (bytes, word) in out.chunks_exact_mut(4).zip(h) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    out
}

fn words() {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).unwrap();
    let mut counts: BTreeMap<&[u8], u32> = BTreeMap::new();
    for word in input.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty()) {
        *counts.entry(word).or_default() += 1;
    }
    let mut list: Vec<_> = counts.into_iter().collect();
    list.sort_by_key(|(word, n)| (std::cmp::Reverse(*n), *word));
    let mut out = std::io::stdout().lock();
    for (word, n) in list.iter().take(20) {
        writeln!(out, "{} {}", n, String::from_utf8_lossy(word)).unwrap();
    }
    for b in sha256(&input) {
        write!(out, "{:02x}", b).unwrap();
    }
    writeln!(out).unwrap();
}

/// Shows what differs from run to run elsewhere.
fn chance() {
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(3000));
    println!("{:?} {:?}", start.elapsed(), SystemTime::now().duration_since(UNIX_EPOCH));
    let map: HashMap<i32, i32> = (0..40).map(|i| (i, i * i)).collect(); // randomly keyed
    println!("{:?}", map.keys().collect::<Vec<_>>());
    println!("{:?} {:?}", std::env::args().collect::<Vec<_>>(), std::env::vars().collect::<Vec<_>>());
    println!("{:?}", std::fs::read("/etc/passwd").map_err(|e| e.kind()));
    eprintln!("diagnostics");
}

fn recurse(n: u64) -> u64 {
    if n == u64::MAX {
        return n;
    }
    recurse(n + 1).wrapping_mul(3) ^ n
}

fn allocate() {
    let mut list: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut block = vec![0u8; 1 << 16]; // fresh memory is zero
        assert!(block.iter().step_by(1000).all(|b| *b == 0));
        block[list.len() % 1000] = 1;
        list.push(block);
    }
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => words(),
        Some("chance") => chance(),
        Some("panic") => panic!("as asked"),
        Some("exit") => std::process::exit(7),
        Some("recurse") => println!("{}", recurse(1)),
        Some("allocate") => allocate(),
        Some("index") => println!("{}", std::env::args().collect::<Vec<_>>()[99]),
        Some("spin") => loop {
            std::hint::spin_loop()
        },
        Some("flood") => loop {
            println!("flood")
        },
        Some(_) => std::process::exit(64),
    }
}
