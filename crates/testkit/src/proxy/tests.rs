//! A proxy before a server that sends back whatever comes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use super::*;

/// Long enough for anything to arrive that is on its way.
const A_WHILE: Duration = Duration::from_millis(200);

/// Sends back whatever comes, for as long as the test runs.
fn echo(mut from: impl std::io::Read, mut to: impl std::io::Write) {
    let mut buffer = [0; CHUNK_BYTES];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

fn echo_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming().map(Result::unwrap) {
            std::thread::spawn(move || echo(&client, &client));
        }
    });
    address
}

fn connect(proxy: &Proxy) -> std::io::Result<TcpStream> {
    let client = TcpStream::connect(proxy.address().strip_prefix("http://").unwrap())?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(client)
}

fn send_and_receive(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    client.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).unwrap();
    back
}

/// Whether the other end has closed or reset the connection.
fn is_closed(client: &mut TcpStream) -> bool {
    match client.read(&mut [0; 16]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn bytes_go_both_ways_and_are_counted() {
    let proxy = Proxy::start(&echo_server());
    let large: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut clients = [connect(&proxy).unwrap(), connect(&proxy).unwrap()];
    assert_eq!(send_and_receive(&mut clients[0], b"hello"), b"hello");
    // More than what fits into all buffers, so it is written while it is read.
    let mut writer = clients[1].try_clone().unwrap();
    let sent = large.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0; large.len()];
    clients[1].read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert_eq!(back, large);
    assert_eq!((proxy.bytes_to_target(), proxy.bytes_from_target()), (1_000_005, 1_000_005));
}

#[test]
fn the_end_of_a_connection_is_passed_on() {
    let proxy = Proxy::start(&echo_server());
    let mut client = connect(&proxy).unwrap();
    assert_eq!(send_and_receive(&mut client, b"hello"), b"hello");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(is_closed(&mut client));
}

#[test]
fn a_unix_socket_is_a_target_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let client = listener.accept().unwrap().0;
        echo(&client, &client);
    });
    let proxy = Proxy::start(&format!("unix:{}", path.display()));
    assert_eq!(send_and_receive(&mut connect(&proxy).unwrap(), b"hello"), b"hello");
}

#[test]
fn a_cut_closes_all_and_refuses_until_it_is_restored() {
    let proxy = Proxy::start(&echo_server());
    let mut client = connect(&proxy).unwrap();
    for _ in 0..3 {
        assert_eq!(send_and_receive(&mut client, b"hello"), b"hello");
        proxy.cut();
        assert!(is_closed(&mut client));
        assert_eq!(connect(&proxy).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        proxy.restore();
        proxy.restore();
        client = connect(&proxy).unwrap();
    }
    assert_eq!(send_and_receive(&mut client, b"hello"), b"hello");
    drop(proxy);
    assert!(is_closed(&mut client));
}

#[test]
fn a_target_that_is_away_ends_the_connection() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(&nobody.to_string());
    assert!(is_closed(&mut connect(&proxy).unwrap()));
}

#[test]
fn a_stalled_proxy_holds_everything_back_and_loses_nothing() {
    let proxy = Proxy::start(&echo_server());
    let mut client = connect(&proxy).unwrap();
    assert_eq!(send_and_receive(&mut client, b"hello"), b"hello");
    proxy.stall();
    client.write_all(b"later").unwrap();
    client.set_read_timeout(Some(A_WHILE)).unwrap();
    let nothing = client.read(&mut [0; 16]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    // Connections are still accepted.
    let mut other = connect(&proxy).unwrap();
    other.write_all(b"other").unwrap();
    proxy.resume();
    client.set_read_timeout(None).unwrap();
    for (client, expected) in [(&mut client, b"later"), (&mut other, b"other")] {
        let mut back = [0; 5];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, expected);
    }
}

#[test]
fn a_delay_is_taken_both_ways() {
    let proxy = Proxy::start(&echo_server());
    let mut client = connect(&proxy).unwrap();
    proxy.delay(A_WHILE);
    let started = Instant::now();
    assert_eq!(send_and_receive(&mut client, b"hello"), b"hello");
    assert!(started.elapsed() >= 2 * A_WHILE, "{:?}", started.elapsed());
    proxy.delay(Duration::ZERO);
    assert_eq!(send_and_receive(&mut client, b"hello"), b"hello");
}

#[test]
fn one_bit_of_each_large_chunk_is_corrupted_as_often_as_asked() {
    let proxy = Proxy::start(&echo_server());
    let mut client = connect(&proxy).unwrap();
    proxy.corrupt(2);
    let small = [7; CORRUPTED_ABOVE / 2];
    assert_eq!(send_and_receive(&mut client, &small), small);
    let large = [7; 2 * CORRUPTED_ABOVE];
    for round in 1..=2 {
        let back = send_and_receive(&mut client, &large);
        let turned: u32 = back.iter().zip(large).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!((turned, back[0], back[back.len() - 1]), (1, 7, 7));
        assert_eq!(proxy.corrupted(), round);
    }
    assert_eq!(send_and_receive(&mut client, &large), large);
    assert_eq!(proxy.corrupted(), 2);
}

#[test]
fn targets_are_read() {
    let tcp = |text: &str| Target::Tcp(text.into());
    assert_eq!(Target::parse("http://127.0.0.1:80/"), tcp("127.0.0.1:80"));
    assert_eq!(Target::parse("node-0:80"), tcp("node-0:80"));
    assert_eq!(Target::parse("unix:///a/b"), Target::Unix("/a/b".into()));
    assert_eq!(Target::parse("unix:/a/b"), Target::Unix("/a/b".into()));
}
