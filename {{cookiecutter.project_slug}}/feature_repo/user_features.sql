-- One row a user and day, as known at the start of that day.
SELECT
  user_id,
  greatest(account_opened, day) AS timestamp,
  age,
  date_diff('day', account_opened, greatest(account_opened, day)) AS account_age_days,
  country
FROM users, (SELECT unnest(generate_series(min(timestamp)::DATE, max(timestamp)::DATE, INTERVAL 1 DAY)) AS day FROM events)
WHERE account_opened < day + INTERVAL 1 DAY
