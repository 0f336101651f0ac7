//! RFC 3339 as gateways write it: a date, a time of at most microseconds, and a zone.

/// Return the microseconds since the beginning of 2000 in UTC; None for what is written in another way.
pub fn microseconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 20
        || bytes[4] != b'-'
        || bytes[7] != b'-'
        || bytes[10] != b'T'
        || bytes[13] != b':'
        || bytes[16] != b':'
    {
        return None;
    }
    let (year, month, day) = (digits(&bytes[..4])?, digits(&bytes[5..7])?, digits(&bytes[8..10])?);
    let (hour, minute, second) = (digits(&bytes[11..13])?, digits(&bytes[14..16])?, digits(&bytes[17..19])?);
    let possible = (1970..=9000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !possible {
        return None;
    }
    let (fraction, zone) = fraction_of(&bytes[19..])?;
    let seconds = days_since_2000(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset_of(zone)?;
    Some(seconds * 1_000_000 + fraction)
}

/// Return an instant as it is announced: in UTC, with microseconds where there are any.
pub fn written(microseconds: i64) -> String {
    let (days, rest) = (microseconds.div_euclid(86_400_000_000), microseconds.rem_euclid(86_400_000_000));
    let (year, month, day) = date_of(days);
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let date = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction == 0 {
        return date + "Z";
    }
    format!("{date}.{fraction:06}Z")
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |number, &byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

/// Return the microseconds in front of the zone, and the zone.
fn fraction_of(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some(after) = rest.strip_prefix(b".") else { return Some((0, rest)) };
    let length = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=6).contains(&length) {
        return None;
    }
    Some((digits(&after[..length])? * 10_i64.pow(6 - length as u32), &after[length..]))
}

/// Return by how many seconds the zone is ahead of UTC.
fn offset_of(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" => Some(0),
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (digits(&zone[1..3])?, digits(&zone[4..6])?);
            let seconds = (hours < 24 && minutes < 60).then_some(hours * 3_600 + minutes * 60)?;
            Some(if *sign == b'+' { seconds } else { -seconds })
        }
        _ => None,
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_2000(year: i64, month: i64, day: i64) -> i64 {
    let past = year - 1; // whole years since the beginning of year 1
    let before: i64 = (1..month).map(|each| days_of(year, each)).sum();
    past * 365 + past / 4 - past / 100 + past / 400 + before + day - 1 - 730_119
}

/// Return year, month and day of so many days after the beginning of 2000.
fn date_of(days: i64) -> (i64, i64, i64) {
    let mut year = 2000 + days.div_euclid(366); // too early rather than too late, from 2000 on
    if days < 0 {
        year = 1969; // with a zone ahead of UTC, 1970 begins in it
    }
    while days_since_2000(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_since_2000(year, month + 1, 1) <= days {
        month += 1;
    }
    (year, month, days - days_since_2000(year, month, 1) + 1)
}
