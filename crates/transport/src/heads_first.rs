//! Sends the head of each large message ahead of it, as an HTTP/2 frame of its own.
//!
//! The head says how long a message is. tonic's reader makes room for it when it has read that, and copies what it has
//! read of the message by then once more, which is all of it if it came in one piece.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

/// Of a message of gRPC: a flag, and its length in four bytes, big-endian.
const HEAD_BYTES: usize = 5;
/// A frame more takes longer than copying fewer bytes.
const LARGE_BYTES: usize = 32 << 10;

/// A body of messages that are passed on unchanged, in other pieces.
pub(crate) struct HeadsFirst {
    body: tonic::body::Body,
    /// Of what the body has given, what is not passed on.
    rest: Bytes,
    /// Bytes of `rest` before the next head.
    of_message: usize,
}

impl HeadsFirst {
    pub(crate) fn wrap(body: tonic::body::Body) -> tonic::body::Body {
        tonic::body::Body::new(Self { body, rest: Bytes::new(), of_message: 0 })
    }

    /// Everything up to the end of the next head of a large message, or everything.
    fn next_piece(&mut self) -> Bytes {
        let mut at = self.of_message;
        self.of_message = 0;
        while let Some(&[_, a, b, c, d]) = self.rest.get(at..at + HEAD_BYTES) {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            at += HEAD_BYTES;
            if length >= LARGE_BYTES {
                self.of_message = length;
                return self.rest.split_to(at);
            }
            at += length;
        }
        std::mem::take(&mut self.rest)
    }
}

impl Body for HeadsFirst {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // tonic's writer gives whole messages.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let head = [&[0][..], &(length as u32).to_be_bytes()].concat();
        [head, vec![7; length]].concat()
    }

    /// The lengths of the pieces in which messages of these lengths are sent.
    fn check(messages: &[usize], expected: &[usize]) {
        let all: Vec<u8> = messages.iter().flat_map(|&length| message(length)).collect();
        let rest = Bytes::from(all.clone());
        let mut body = HeadsFirst { body: tonic::body::Body::empty(), rest, of_message: 0 };
        let mut pieces = Vec::new();
        while !body.rest.is_empty() {
            pieces.push(body.next_piece());
        }
        assert_eq!(pieces.concat(), all);
        let lengths: Vec<usize> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, expected, "{messages:?}");
    }

    #[test]
    fn heads_of_large_messages_go_ahead() {
        const L: usize = LARGE_BYTES;
        check(&[], &[]);
        check(&[0], &[5]);
        check(&[L - 1], &[L + 4]);
        check(&[L], &[5, L]);
        check(&[3, 0, L + 2, 1], &[8 + 5 + 5, L + 2 + 6]);
        check(&[L, L, 9], &[5, L + 5, L + 14]);
    }
}
