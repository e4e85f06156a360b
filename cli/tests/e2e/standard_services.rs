//! What generic gRPC tools ask of both processes: health and reflection.

use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use guildhall_testkit::client::{collect, connect, greedy};
use guildhall_testkit::cluster::{Cluster, demo, golden, start_node};
use guildhall_testkit::process::Process;

async fn status(channel: Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.into() };
    HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
}

async fn channel(address: &str) -> Channel {
    Endpoint::from_shared(address.to_owned()).unwrap().connect().await.unwrap()
}

macro_rules! services {
    ($channel:expr, $version:ident) => {{
        use pb::server_reflection_request::MessageRequest;
        use pb::server_reflection_response::MessageResponse;
        use tonic_reflection::pb::$version as pb;
        let mut client = pb::server_reflection_client::ServerReflectionClient::new($channel);
        let request = pb::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers =
            client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response.unwrap() {
            MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    }};
}

#[tokio::test]
async fn router_and_node_answer_health_and_reflection() {
    let cluster = Cluster::start(&demo(), "bf16", 1, &[]);
    // One that the router refuses.
    let args = ["--listen", "127.0.0.1:0", "--store", &cluster.store, "--model"];
    let model = golden("mixtral");
    let node = Process::start([&["expert-node"], &args[..], &[model.to_str().unwrap()]].concat());
    let node_channel = channel(&node.line_after("listening on ")).await;
    let router_channel = channel(&cluster.address).await;
    for (channel, service) in
        [(node_channel, "guildhall.v1.Experts"), (router_channel, "guildhall.v1.Generation")]
    {
        assert_eq!(status(channel.clone(), "").await, ServingStatus::Serving);
        assert_eq!(status(channel.clone(), service).await, ServingStatus::Serving);
        for names in [services!(channel.clone(), v1), services!(channel.clone(), v1alpha)] {
            assert!(names.iter().any(|name| name == service), "{names:?}");
        }
    }
}

#[tokio::test]
async fn a_router_whose_node_is_gone_says_that_it_does_not_serve() {
    // Room for 34 of 64 experts.
    let tight = ["--capacity", "5013504"];
    let cluster = Cluster::start_with(&demo(), "bf16", 2, &tight, &["--min-replicas", "1"]);
    let channel = channel(&cluster.address).await;
    cluster.nodes[0].signal("KILL");
    cluster.router.wait_for_log("some experts are on no live node");
    while status(channel.clone(), "").await == ServingStatus::Serving {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_router_that_makes_no_progress_is_alive_but_not_ready() {
    let timeouts = ["--min-replicas", "1", "--stall-timeout", "0.5", "--expert-call-timeout", "1"];
    let cluster = Cluster::start(&demo(), "bf16", 2, &timeouts);
    let channel = channel(&cluster.address).await;
    assert_eq!(status(channel.clone(), "readiness").await, ServingStatus::Serving);
    let mut client = connect(&cluster.address).await;
    let request = greedy(&[1, 2], 900);
    let mut stream = client.generate_stream(request).await.unwrap().into_inner();
    stream.message().await.unwrap();
    // Nobody else has its experts.
    cluster.nodes[0].signal("STOP");
    while status(channel.clone(), "readiness").await == ServingStatus::Serving {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(status(channel.clone(), "liveness").await, ServingStatus::Serving);
    cluster.nodes[0].signal("CONT");
    while status(channel.clone(), "readiness").await != ServingStatus::Serving {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(collect(stream).await.is_ok());
}

#[tokio::test]
async fn one_node_may_serve_over_tcp() {
    let model = golden("olmoe");
    let args = ["--grpc-port", "0", "--port", "0", "--cluster-port", "0", "--dtype", "f32"];
    let named = ["--model", model.to_str().unwrap()];
    let router = Process::start([&["router"], &args[..], &named].concat());
    let store = router.line_after("cluster port on ");
    // Every address of this machine; the router is told one that it can reach.
    let _node = start_node(&model, "f32", 0, &["--listen", "0.0.0.0:0", "--store", &store]);
    let mut client = connect(&router.line_after("router listening on ")).await;
    let answer = client.generate(greedy(&[1, 2], 5)).await.unwrap().into_inner();
    assert_eq!(answer.choices[0].token_ids.len(), 5);
}
