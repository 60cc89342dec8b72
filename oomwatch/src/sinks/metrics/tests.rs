//! What events become in counters, and what the parts of the agent become in health.

use super::*;
use crate::sinks::tests::every_event;

fn exporter(stats: &Arc<Stats>) -> (Arc<Exporter>, mpsc::Receiver<Request>) {
    let (asker, requests) = mpsc::channel(1);
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let start = Start { address, tier: "bpf+fentry".into(), limits: Limits::Always, stats: Arc::clone(stats), asker };
    (Arc::new(Exporter::new(start)), requests)
}

/// Answers as the pipeline does.
async fn answer(mut requests: mpsc::Receiver<Request>) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Living(back) => drop(back.send(Vec::new())),
            Request::Workloads(back) => drop(back.send(Vec::new())),
            Request::Turn(back) => drop(back.send(())),
            Request::History(back) => drop(back),
        }
    }
}

#[tokio::test]
async fn health_needs_every_source_and_the_pipeline() {
    let stats = Arc::new(Stats::default());
    let (kernel, gvisor) = (stats.source("kernel"), stats.source("gvisor"));
    let (exporter, requests) = exporter(&stats);
    let pipeline = tokio::spawn(answer(requests));
    assert_eq!(exporter.health().await, (false, "kernel down\ngvisor down\npipeline up\n".to_owned()));
    kernel.beat();
    gvisor.beat();
    assert_eq!(exporter.health().await, (true, "kernel up\ngvisor up\npipeline up\n".to_owned()));
    drop(gvisor);
    assert_eq!(exporter.health().await, (false, "kernel up\ngvisor down\npipeline up\n".to_owned()));
    pipeline.abort();
    drop(pipeline.await);
    assert_eq!(exporter.health().await, (false, "kernel up\ngvisor down\npipeline down\n".to_owned()));
}

#[tokio::test]
async fn every_metric_of_the_interface_is_on_the_page_from_the_beginning() {
    let stats = Arc::new(Stats::default());
    let (exporter, requests) = exporter(&stats);
    let pipeline = tokio::spawn(answer(requests));
    let page = exporter.page(true, Reader::Other).await.unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for sample in [
        "oomwatch_oom_kills_total{runtime=\"process\",scope=\"memcg\",limit_owner=\"slice\"} 0",
        "oomwatch_oom_total{runtime=\"process\"} 0",
        "oomwatch_near_limit_total{runtime=\"process\"} 0",
        "oomwatch_events_total{event=\"oom_kill\"} 0",
        "oomwatch_events_total{event=\"missed\"} 0",
        "oomwatch_events_lost_total{stage=\"ringbuf\"} 0",
        "oomwatch_missed_kills_total 0",
        "oomwatch_resolution_failures_total{reason=\"no_workload\"} 0",
        "oomwatch_series_evicted_total 0",
        "oomwatch_detection_latency_seconds_count 0",
        "oomwatch_poll_duration_seconds_count 0",
        &format!("oomwatch_build_info{{version=\"{version}\",tier=\"bpf+fentry\"}} 1"),
    ] {
        assert_eq!(page.lines().filter(|line| *line == sample).count(), 1, "{sample} in\n{page}");
    }
    pipeline.abort();
    drop(pipeline.await);
    let without = exporter.page(false, Reader::Other).await.unwrap();
    assert!(without.contains("# TYPE oomwatch_oom_kills_total counter"), "{without}");
}

#[tokio::test]
async fn every_event_is_counted_as_what_it_is() {
    let stats = Arc::new(Stats::default());
    let (exporter, requests) = exporter(&stats);
    let pipeline = tokio::spawn(answer(requests));
    for event in every_event() {
        exporter.count(&Delivery::new(event));
    }
    let page = exporter.page(true, Reader::Other).await.unwrap();
    for sample in [
        "oomwatch_events_total{event=\"oom_kill\"} 3",
        "oomwatch_events_total{event=\"near_limit\"} 2",
        "oomwatch_events_total{event=\"missed\"} 1",
        "oomwatch_events_lost_total{stage=\"ringbuf\"} 7",
        "oomwatch_events_lost_total{stage=\"queue\"} 0",
        "oomwatch_events_lost_total{stage=\"sink\"} 1002",
        "oomwatch_missed_kills_total 2",
        "oomwatch_resolution_failures_total{reason=\"no_workload\"} 1",
        "oomwatch_resolution_failures_total{reason=\"no_runtime\"} 0",
        "oomwatch_resolution_failures_total{reason=\"no_limit\"} 0",
        "oomwatch_detection_latency_seconds_count 1",
    ] {
        assert!(page.lines().any(|line| line == sample), "no {sample} in {page}");
    }
    let sum = |name: &str| -> u64 {
        let samples = page.lines().filter(|line| line.starts_with(name));
        samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    };
    assert_eq!(sum("oomwatch_oom_kills_total{"), 3);
    assert_eq!(sum("oomwatch_oom_total{"), 12);
    assert_eq!(sum("oomwatch_near_limit_total{"), 2);
    pipeline.abort();
}
