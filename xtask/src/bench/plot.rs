//! What watching costs by the number of workloads, as a picture.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// Shares of one processor at a number of workloads, percent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) workloads: u32,
    pub(super) agent: f64,
    pub(super) original: f64,
}

const SIZE: (u32, u32) = (720, 400);

/// Draws them into a file of SVG.
pub(super) fn draw(points: &[Point], file: &Path) -> anyhow::Result<()> {
    let widest = points.iter().map(|point| point.workloads).max().context("nothing was measured")?;
    let highest = points.iter().map(|point| point.original.max(point.agent)).fold(0.0, f64::max);
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    let failed = |error: DrawingAreaErrorKind<std::io::Error>| anyhow!("draw {}: {error}", file.display());
    area.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .margin_right(150)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0..widest, 0.0..highest * 1.1)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("workloads, half of them gVisor sandboxes")
        .y_desc("share of one processor, %")
        .x_labels(5)
        .y_labels(6)
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(failed)?;
    let line = |share: fn(&Point) -> f64| points.iter().map(move |point| (point.workloads, share(point)));
    let lines = [
        ("the original's method", RGBColor(0xd9, 0x6b, 0x27), line(|point| point.original)),
        ("oomwatch", RGBColor(0x1f, 0x6f, 0xb4), line(|point| point.agent)),
    ];
    for (name, colour, mut line) in lines {
        chart.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)).point_size(3)).map_err(failed)?;
        // Named at its end, so that no legend is needed.
        let last = line.next_back().context("nothing was measured")?;
        let style =
            TextStyle::from(("sans-serif", 14).into_font()).color(&colour).pos(Pos::new(HPos::Left, VPos::Center));
        let (x, y) = chart.backend_coord(&last);
        area.draw_text(name, &style, (x + 10, y)).map_err(failed)?;
    }
    area.present().map_err(failed)
}
