#!/usr/bin/env bash
# A file that a DVC remote lost is never sent again, if it is one of a tracked folder.
# Guess: `dvc push` sends what the remote lacks, `dvc status --cloud` names it, and both look at a
# folder's files as they look at a single file.
# What happens: of a single file both do. Of a folder they ask for its listing alone: while that is in
# the remote, push says "Everything is up to date" and status "in sync", with exit status 0, and a
# fresh clone cannot pull. This holds for whoever has an older memo of the remote, and without one.
# Version: dvc 3.67.1, dvc-data 3.18.3, a remote that is a folder.
# Why it matters: checkpoints and tables of rollouts are folders. A team that clears its own caches
# after "in sync" may delete the last copy of what the remote does not have.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work/home DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR=$work/site GIT_CONFIG_NOSYSTEM=1
mkdir "$HOME"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q dvc==3.67.1 dvc-data==3.18.3
dvc() { "$work/venv/bin/python" -m dvc "$@"; }
cd "$work"
git init -q project
cd project
dvc init -q
dvc remote add -q -d store "$work/remote"
mkdir folder
echo weights > folder/model
echo words > folder/vocabulary
echo alone > single
dvc add -q folder single
dvc push -q
lose() { # the object of a file's content
    local md5
    md5=$(md5sum < "$1" | cut -c1-32)
    rm "$work/remote/files/md5/${md5:0:2}/${md5:2}"
}
lose folder/model
lose single
for memo in "with its memo of the remote" "without a memo"; do
    echo "-- $memo"
    dvc status --cloud | tee ../status
    grep -q single ../status
    ! grep -q folder ../status
    [ "$memo" = "without a memo" ] || rm -rf "$work/site"
done
dvc push | tee ../pushed
grep -q "1 file pushed" ../pushed
dvc status --cloud | tee ../status
grep -q "in sync" ../status
dvc push | tee ../pushed
grep -q "Everything is up to date" ../pushed
rm -rf .dvc/cache folder single
if dvc pull > ../pulled 2>&1; then echo "pull brought everything" && exit 1; fi
sed "s#$work##g" ../pulled
grep -q "failed to download" ../pulled
test ! -e folder/model
