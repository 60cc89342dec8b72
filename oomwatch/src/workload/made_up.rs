//! Names that an engine made up, so that they say nothing of what runs there. Pure.

/// First words of the names that docker and podman give to containers without one (`pkg/namesgenerator` of moby).
const FIRST_WORDS: &str = "admiring adoring affectionate agitated amazing angry awesome beautiful blissful bold boring brave \
    busy charming clever compassionate competent condescending confident cool cranky crazy dazzling determined distracted dreamy \
    eager ecstatic elastic elated elegant eloquent epic exciting fervent festive flamboyant focused friendly frosty funny gallant \
    gifted goofy gracious great happy hardcore heuristic hopeful hungry infallible inspiring intelligent interesting jolly jovial \
    keen kind laughing loving lucid magical modest musing mystifying naughty nervous nice nifty nostalgic objective optimistic \
    peaceful pedantic pensive practical priceless quirky quizzical recursing relaxed reverent romantic sad serene sharp silly \
    sleepy stoic strange stupefied suspicious sweet tender thirsty trusting unruffled upbeat vibrant vigilant vigorous wizardly \
    wonderful xenodochial youthful zealous zen";
/// Letters of an id of docker's swarm.
const SWARM_ID: usize = 25;

/// Whether docker or podman may have made this name up: `eager_hopper`, `eager_hopper7`.
pub(crate) fn is_random(name: &str) -> bool {
    let Some((first, second)) = name.split_once('_') else { return false };
    let letters = second.strip_suffix(|last: char| last.is_ascii_digit()).unwrap_or(second);
    let is_word = !letters.is_empty() && letters.bytes().all(|byte| byte.is_ascii_lowercase());
    is_word && FIRST_WORDS.split(' ').any(|word| word == first)
}

/// The service of a task of docker's swarm, whose container is called `SERVICE.SLOT.ID` or `SERVICE.NODE.ID`.
pub(crate) fn swarm_service(name: &str) -> Option<&str> {
    let (rest, id) = name.rsplit_once('.')?;
    let (service, slot) = rest.rsplit_once('.')?;
    let is_id = |text: &str| {
        text.len() == SWARM_ID && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let is_slot = !slot.is_empty() && slot.bytes().all(|byte| byte.is_ascii_digit());
    (!service.is_empty() && is_id(id) && (is_slot || is_id(slot))).then_some(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_makes_up_is_told_from_what_people_choose() {
        for made_up in ["eager_hopper", "zen_bell3", "admiring_ritchie"] {
            assert!(is_random(made_up), "{made_up}");
        }
        for chosen in
            ["web", "my_app", "eager", "eager_", "eager_3", "eager_Hopper", "eager-hopper", "eager_hopper_1", "_a"]
        {
            assert!(!is_random(chosen), "{chosen}");
        }
    }

    #[test]
    fn a_task_of_a_swarm_is_its_services() {
        let id = "x7q0a1b2c3d4e5f6g7h8i9j0k";
        assert_eq!(swarm_service(&format!("shop_web.1.{id}")), Some("shop_web"));
        assert_eq!(swarm_service(&format!("node.exporter.{id}.{id}")), Some("node.exporter"));
        for other in ["web", "web.1", "web.1.short", &format!(".1.{id}"), &format!("web..{id}"), &format!("web.x.{id}")]
        {
            assert_eq!(swarm_service(other), None, "{other}");
        }
    }
}
